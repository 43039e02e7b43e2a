"""Each client's own calls work; what is checked is in scripts/NAME.py, which runs with the client's packages alone."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SCRIPTS = Path(__file__).parent / "scripts"
CLIENTS = sorted(path.stem for path in SCRIPTS.glob("*.py"))


@pytest.mark.parametrize("client", CLIENTS)
def test_client(run: Callable[..., str], server: str, python_with: Callable[[str], Path], client: str) -> None:
    said = run(python_with(client), "-P", SCRIPTS / f"{client}.py", server, timeout_s=900)
    assert said.rstrip().endswith("ok")
