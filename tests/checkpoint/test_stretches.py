"""Stretches of a file: read whole, or refused by name."""

import os
from pathlib import Path

import numpy as np
import pytest

from quire.checkpoint.stretches import Stretches
from quire.core.errors import CorruptCheckpoint, ModelUnavailable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(100)))
    return path


def test_any_stretch_is_read(path: Path) -> None:
    stretches = Stretches(path)
    for first, count in ((0, 100), (7, 60), (99, 1), (100, 0)):
        out = np.full((count, 1), 255, np.uint8)
        stretches.read(first, out, "x")
        assert out.ravel().tolist() == list(range(first, first + count))


def test_short_reads_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, at: whole(file, [buffers[0][:7]], at))
    out = np.empty(50, np.uint8)
    Stretches(path).read(20, out, "x")
    assert out.tolist() == list(range(20, 70))


def test_what_cannot_be_read_is_named(path: Path, tmp_path: Path) -> None:
    with pytest.raises(CorruptCheckpoint, match=r"^model: tensor 'w' ends beyond the end of the file"):
        Stretches(path).read(90, np.empty(11, np.uint8), "model: tensor 'w'")
    with pytest.raises(CorruptCheckpoint, match=r"^model: tensor 'w' cannot be read: Is a directory"):
        Stretches(tmp_path).read(0, np.empty(1, np.uint8), "model: tensor 'w'")
    with pytest.raises(ModelUnavailable, match=r"cannot open .*nowhere: No such file"):
        Stretches(tmp_path / "nowhere")


def test_closing_twice_is_closing(path: Path) -> None:
    stretches = Stretches(path)
    stretches.close()
    stretches.close()
    assert stretches.descriptor is None
