"""Who may import whom, and what must not be loaded."""

import subprocess
import sys
from pathlib import Path

import pytest


def _loaded(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after the statement."""
    code = f"{statement}\nimport sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split())


def test_the_import_contracts_are_kept(root: Path) -> None:
    command = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    result = subprocess.run(
        [sys.executable, "-c", command, "--no-cache", "--no-logo"], cwd=root, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_room_has_a_floor(root: Path) -> None:
    contracts = (root / "pyproject.toml").read_text().partition('type = "layers"')[2].partition("]\n")[0]
    rooms = {path.parent.name for path in (root / "src" / "quire").glob("*/__init__.py")}
    assert rooms
    missing = {room for room in rooms if f"quire.{room}" not in contracts}
    assert not missing, f"add to the layers in pyproject.toml: {missing}"


@pytest.mark.parametrize(
    "statement",
    [
        "import quire",
        "import quire.cli.main",
        "from quire.cli.main import main; main(['--version'])",
        "from quire.cli.main import main; main(['serve', '--help'])",
        "from quire.cli.main import main; main(['run-batch', '--help'])",
        "from quire.cli.main import main; main(['bench', 'serve', '--help'])",
        "from quire.cli.main import main; main(['bench', 'latency', '--help'])",
    ],
)
def test_what_must_be_quick_loads_nothing_heavy(statement: str) -> None:
    heavy = {"torch", "numpy", "transformers", "starlette", "uvicorn", "pydantic", "tokenizers", "tqdm", "yaml"}
    assert not heavy & _loaded(statement)


@pytest.mark.parametrize(
    "module", ["quire.server.serve", "quire.engine.async_llm", "quire.cli.local", "quire.cli.chat", "quire.bench.serve"]
)
def test_the_http_process_never_loads_torch(module: str) -> None:
    assert not {"torch", "transformers", "safetensors"} & _loaded(f"import {module}")


def test_public_names_are_there_when_asked_for() -> None:
    import quire

    assert set(quire.__all__) <= set(dir(quire))
    for name in ("SamplingParams", "RequestOutput", "CompletionOutput"):
        assert getattr(quire, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_thing"):
        quire.no_such_thing  # noqa: B018
