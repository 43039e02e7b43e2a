"""The GGUF reader sees what the gguf package sees."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from quire.checkpoint.gguf import GGUFFile
from quire.checkpoint.gguf_types import BLOCK_TYPES, IMPLEMENTED, UNIMPLEMENTED
from quire.core.errors import CorruptCheckpoint, ModelUnavailable

TOKENS = ["a", "", "Ġthe", "日本語", "x" * 300, "\U0001f600", "é" * 128, "z"]


def write_all_types(path: Path) -> dict[str, np.ndarray]:
    """A file with a tensor of each implemented type, of random bytes; returns those."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("k.u8", 200)
    writer.add_int8("k.i8", -100)
    writer.add_uint16("k.u16", 60_000)
    writer.add_int16("k.i16", -30_000)
    writer.add_uint32("k.u32", 4_000_000_000)
    writer.add_int32("k.i32", -2_000_000_000)
    writer.add_uint64("k.u64", 2**63 + 1)
    writer.add_int64("k.i64", -(2**62))
    writer.add_float32("k.f32", 1e-5)
    writer.add_float64("k.f64", 1e-5)
    writer.add_bool("k.bool", True)
    writer.add_string("k.string", "grüße\0!")
    writer.add_array("k.ints", [1, -2, 3])
    writer.add_array("k.floats", [0.5, 1.5])
    writer.add_array("k.bools", [True, False])
    writer.add_array("k.strings", TOKENS)
    writer.add_array("k.short", ["a", "b", "", "c"])
    writer.add_array("k.nul", ["a\0b", "c"])
    random = np.random.default_rng(0)
    written = {}
    for code, block in IMPLEMENTED.items():
        raw = random.integers(0, 256, (3, 2 * block.num_bytes), dtype=np.uint8)
        if block.elements == 1:
            raw = random.integers(0, 256, (3, 8 * block.num_bytes), dtype=np.uint8)
        written[block.name] = raw
        writer.add_tensor(f"t.{block.name}", raw, raw_dtype=gguf.GGMLQuantizationType(code))
    writer.add_tensor("vector", np.arange(5, dtype=np.float32))
    writer.add_tensor("cube", np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


@pytest.fixture(scope="module")
def all_types(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    path = tmp_path_factory.mktemp("gguf") / "all.gguf"
    return path, write_all_types(path)


def test_metadata_equals_the_gguf_package(all_types: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, _ = all_types
    oracle = gguf.GGUFReader(path)
    with GGUFFile(path) as file:
        expected = {name for name in oracle.fields if not name.startswith("GGUF.")}
        assert set(file.metadata) == expected
        for name in expected:
            ours, theirs = file.metadata[name], oracle.fields[name].contents()
            assert (ours.tolist() if isinstance(ours, np.ndarray) else ours) == theirs, name
        assert file.metadata["k.strings"] == TOKENS
        assert file.metadata["k.nul"] == ["a\0b", "c"]
        assert file.metadata["k.bools"].dtype == np.bool_ and file.metadata["k.bool"] is True
        assert file.version == 3


def test_tensors_equal_the_gguf_package(all_types: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, written = all_types
    oracle = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    with GGUFFile(path) as file:
        assert list(file.tensors) == list(oracle)
        for name, tensor in file.tensors.items():
            theirs = oracle[name]
            assert tensor.shape == tuple(int(size) for size in reversed(theirs.shape))
            assert (tensor.type, tensor.offset) == (theirs.tensor_type.name, theirs.data_offset)
            assert tensor.num_bytes == theirs.n_bytes
            data = file.data(name)
            assert data.dtype == np.uint8 and not data.flags.writeable and data.ndim == 2
            assert data.tobytes() == theirs.data.tobytes()
        for name, raw in written.items():
            assert np.array_equal(file.data(f"t.{name}"), raw)
        assert file.data("vector").shape == (1, 20)
        assert file.data("cube").shape == (6, 16)
        del data


def test_the_main_type_has_most_bytes(all_types: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, written = all_types
    with GGUFFile(path) as file:
        assert file.main_type == max(written, key=lambda name: written[name].nbytes)


def test_block_sizes_equal_the_gguf_package() -> None:
    for code, block in IMPLEMENTED.items():
        assert gguf.GGMLQuantizationType(code).name == block.name
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(code)] == (block.elements, block.num_bytes)
        assert BLOCK_TYPES[block.name] is block
    assert {int(code) for code in gguf.GGMLQuantizationType} <= set(IMPLEMENTED) | set(UNIMPLEMENTED)


def test_version_2_and_another_alignment(gguf_bytes, write: Callable[[bytes], Path]) -> None:  # type: ignore[no-untyped-def]
    rows = [gguf_bytes.row("a", (4,), 0, 0, 16), gguf_bytes.row("b", (4,), 0, 64, 16)]
    alignment = gguf_bytes.key("general.alignment", 4, gguf_bytes.u32(64))
    path = write(gguf_bytes.file([alignment], rows, version=2, alignment=64, data=bytes(range(80))))
    with GGUFFile(path) as file:
        assert file.version == 2
        assert file.data("a").tobytes() == bytes(range(16))
        assert file.data("b").tobytes() == bytes(range(64, 80))


def test_arrays_of_arrays(gguf_bytes, write: Callable[[bytes], Path]) -> None:  # type: ignore[no-untyped-def]
    inner = [gguf_bytes.u32(8) + gguf_bytes.u64(1) + gguf_bytes.text("x"), gguf_bytes.u32(4) + gguf_bytes.u64(0)]
    key = gguf_bytes.key("nested", 9, gguf_bytes.u32(9) + gguf_bytes.u64(2) + b"".join(inner))
    with GGUFFile(write(gguf_bytes.file([key]))) as file:
        first, second = file.metadata["nested"]
        assert first == ["x"] and second.size == 0


def test_dropping_pages_loses_nothing(all_types: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, written = all_types
    with GGUFFile(path) as file:
        file.drop_pages()
        assert np.array_equal(file.data("t.Q4_1"), written["Q4_1"])


def test_rows_are_read_where_they_lie(all_types: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, written = all_types
    with GGUFFile(path) as file:
        for name, raw in written.items():
            rows = np.zeros((len(raw) - 1, raw.shape[1]), np.uint8)
            file.read(f"t.{name}", 1, rows)
            assert np.array_equal(rows, raw[1:]), name


def test_a_view_outlives_the_file(all_types: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, written = all_types
    with GGUFFile(path) as file:
        view = file.data("t.Q6_K")
    assert np.array_equal(view, written["Q6_K"])


def test_text_that_is_no_utf8_is_refused_when_asked_for(gguf_bytes, write: Callable[[bytes], Path]) -> None:  # type: ignore[no-untyped-def]
    for values in ([b"ok", b"\xff"], [b"\0", b"\xff"], [b"\xe2\x82", b"\xac"]):
        file = GGUFFile(write(gguf_bytes.file([gguf_bytes.strings("tokens", values)])))
        with file, pytest.raises(CorruptCheckpoint, match="'tokens' holds a string that is not UTF-8"):
            file.metadata["tokens"]


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="No such file"):
        GGUFFile(tmp_path / "none.gguf")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(CorruptCheckpoint, match="empty"):
        GGUFFile(tmp_path / "empty.gguf")
