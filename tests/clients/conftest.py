"""Clients that people already have, unmodified, each in a virtual environment of its own, against one real server.

An environment is made at the first run from ``requirements/NAME.txt``, in ``build/clients`` (or $QUIRE_CLIENTS), and
kept as long as that file does not change.
"""

import hashlib
import os
import subprocess
import venv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="session")
def server(serving: Callable[..., AbstractContextManager[Any]]) -> Iterator[str]:
    """The address of a server of the default model."""
    with serving("--served-model-name", "quire", "--seed", "0") as server:
        yield server.url


@pytest.fixture(scope="session")
def python_with() -> Callable[[str], Path]:
    """The interpreter of the environment of requirements/NAME.txt."""

    def make(name: str) -> Path:
        wanted = HERE / "requirements" / f"{name}.txt"
        digest = hashlib.sha256(wanted.read_bytes()).hexdigest()[:12]
        folder = Path(os.environ.get("QUIRE_CLIENTS") or ROOT / "build" / "clients") / f"{name}-{digest}"
        python = folder / "bin" / "python"
        if not (folder / ".ready").exists():
            venv.create(folder, with_pip=True, clear=True)
            install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted]
            subprocess.run(install, check=True, timeout=900)
            (folder / ".ready").touch()
        return python

    return make


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Run a command as somebody would who has no Quire, in an empty home; fails, with what it said, if it fails."""

    def start(*command: str | Path, timeout_s: float = 300, **environment: str) -> str:
        ours = ("PYTHONPATH", "HF_HUB_OFFLINE", "OPENAI_API_KEY", "OPENAI_BASE_URL")
        clean = {name: value for name, value in os.environ.items() if name not in ours}
        clean |= {"HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"} | environment
        ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=clean, cwd=tmp_path)
        assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-8000:]
        return ended.stdout

    return start
