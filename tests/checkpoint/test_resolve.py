"""Names that are paths."""

from pathlib import Path

import pytest

from quire.checkpoint.resolve import resolve
from quire.core.errors import ModelUnavailable


def test_folders_and_files_are_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "m.gguf").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("org/name") == resolve("./org/name") == resolve("~/org/name") == tmp_path / "org" / "name"
    assert resolve("m.gguf") == resolve(str(tmp_path / "m.gguf")) == tmp_path / "m.gguf"


@pytest.mark.parametrize("name", ["/none/here", "./none", "../none", "~/none", "~nobody-here/x", "a\\b", "none.gguf",
                                  "org/none.gguf"])  # fmt: skip
def test_paths_to_nothing(home: Path, name: str) -> None:
    with pytest.raises(ModelUnavailable, match="looks like a path, but there is nothing at /"):
        resolve(name)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(ModelUnavailable, match=r"no \.gguf file"):
        resolve(str(tmp_path / "model.bin"))


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_no_name(name: str) -> None:
    with pytest.raises(ModelUnavailable, match="Give a hub id"):
        resolve(name)


def test_a_name_too_long(home: Path) -> None:
    with pytest.raises(ModelUnavailable):
        resolve("x" * 5000)
