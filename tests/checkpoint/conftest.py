"""Makes small GGUF files, sound and unsound ones, byte by byte; and a cache of models in the test's own folder."""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest


class Row(NamedTuple):
    """One entry of the tensor table, as the file has it: dimensions innermost first."""

    name: str
    dims: tuple[int, ...]
    type: int
    offset: int
    num_bytes: int = 0


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


class GGUFBytes:
    """Assembles a file out of parts that a test may have spoiled."""

    u32 = staticmethod(lambda value: struct.pack("<I", value))
    u64 = staticmethod(lambda value: struct.pack("<Q", value))
    text = staticmethod(text)
    row = Row

    def key(self, name: str, kind: int, value: bytes) -> bytes:
        return text(name) + struct.pack("<I", kind) + value

    def strings(self, name: str, values: Sequence[str | bytes]) -> bytes:
        return self.key(name, 9, struct.pack("<IQ", 8, len(values)) + b"".join(map(text, values)))

    def file(
        self,
        keys: Sequence[bytes] = (),
        rows: Sequence[Row] = (),
        *,
        data: bytes | None = None,
        num_keys: int | None = None,
        num_rows: int | None = None,
        magic: bytes = b"GGUF",
        version: int = 3,
        alignment: int = 32,
    ) -> bytes:
        head = magic + struct.pack("<IQQ", version, len(rows) if num_rows is None else num_rows, 0)[:12]
        head += struct.pack("<Q", len(keys) if num_keys is None else num_keys) + b"".join(keys)
        for row in rows:
            head += text(row.name) + struct.pack(f"<I{len(row.dims)}Q", len(row.dims), *row.dims)
            head += struct.pack("<IQ", row.type, row.offset)
        size = max((row.offset + row.num_bytes for row in rows), default=0)
        return head + bytes(-len(head) % alignment) + (bytes(size) if data is None else data)


@pytest.fixture
def gguf_bytes() -> GGUFBytes:
    return GGUFBytes()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write_file(content: bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        return path

    return write_file


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for every cache, and none of the machine's settings."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("QUIRE_HOME", str(tmp_path / "quire"))
    return tmp_path
