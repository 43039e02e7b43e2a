"""Safetensors: what is sound comes out as it went in, and what is not is named, file and tensor."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from quire.checkpoint.checkpoint import open_checkpoint
from quire.core.errors import ConfigError, CorruptCheckpoint, ModelUnavailable, QuireError, UnsupportedModel
from quire.model.load import load_model
from quire.model.quantization.plain import Plain
from quire.model.weights import source as source_module
from quire.model.weights.cursor import Cursor
from quire.model.weights.open import open_source
from quire.model.weights.safetensors import SafetensorsSource
from quire.model.weights.shard import Group

CPU = torch.device("cpu")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def pull(*files: Path, name: str = "w", shape: tuple[int, ...] = (4, 6), dtype: torch.dtype = torch.float32) -> Tensor:
    source = SafetensorsSource(files)
    try:
        return Cursor(source, dtype, CPU, Plain()).pull(name, shape)
    finally:
        source.close()


@pytest.mark.parametrize("stored", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_floats_are_cast(file: Path, stored: torch.dtype, dtype: torch.dtype) -> None:
    w = torch.randn(4, 6).to(stored)
    save_file({"w": w, "s": w[0, 0].clone()}, file)
    assert torch.equal(pull(file, dtype=dtype), w.to(dtype))


def test_what_was_read_outlives_the_file(file: Path) -> None:
    w = torch.randn(4, 6)
    save_file({"w": w}, file)
    read = pull(file)
    file.write_bytes(bytes(file.stat().st_size))
    assert torch.equal(read, w)


def test_slabs_do_not_show(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = torch.randn(7, 10)
    save_file({"w": w}, file)
    monkeypatch.setattr(source_module, "_SLAB_ROWS", 1)
    for values in (1, 25, 70):
        monkeypatch.setattr(source_module, "_SLAB", values)
        for dtype in (torch.float32, torch.bfloat16):
            assert torch.equal(pull(file, shape=(7, 10), dtype=dtype), w.to(dtype))
        source = SafetensorsSource([file])
        for rank in range(2):
            columns = Cursor(source, torch.float32, CPU, Plain(), Group(rank, 2)).pull("w", (7, 10), cut=1)
            assert torch.equal(columns, w.chunk(2, dim=1)[rank])


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    a, b = torch.randn(4, 6), torch.randn(4, 6)
    files = [tmp_path / "model-00001-of-00002.safetensors", tmp_path / "model-00002-of-00002.safetensors"]
    save_file({"a": a}, files[0])
    save_file({"b": b}, files[1])
    assert SafetensorsSource(files).names() == {"a", "b"}
    assert torch.equal(pull(*files, name="b"), b)
    with pytest.raises(CorruptCheckpoint, match=r"2 safetensors files.*no tensor 'c'"):
        pull(*files, name="c")
    save_file({"a": a, "b": b}, files[1])
    with pytest.raises(CorruptCheckpoint, match=r"00002.safetensors: tensor 'a' is in model-00001"):
        pull(*files)


def test_a_missing_shard_is_named(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny_checkpoint("llama") / "config.json").read_text())
    save_file({"a": torch.zeros(1)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(CorruptCheckpoint, match=r"model-00002-of-00002\.safetensors"):
        open_source(open_checkpoint(tmp_path))
    with pytest.raises(ModelUnavailable, match=r"model-00002-of-00002\.safetensors"):
        SafetensorsSource([tmp_path / "model-00002-of-00002.safetensors"])


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -100, -1])
def test_a_file_cut_short(file: Path, keep: int) -> None:
    save_file({"w": torch.randn(4, 6)}, file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CorruptCheckpoint, match=r"model\.safetensors is not a whole safetensors file"):
        pull(file)


def test_a_file_that_shrinks_while_it_is_read(file: Path) -> None:
    save_file({"v": torch.randn(4, 6), "w": torch.randn(4, 6)}, file)
    source = SafetensorsSource([file])
    at = Cursor(source, torch.float32, CPU, Plain())
    file.write_bytes(file.read_bytes()[:-1])
    at.pull("v", (4, 6))
    with pytest.raises(CorruptCheckpoint, match=r"model\.safetensors: tensor 'w' ends beyond the end of the file"):
        at.pull("w", (4, 6))


def test_a_type_that_torch_does_not_know(file: Path) -> None:
    header(file, {"w": {"dtype": "F4", "shape": [4, 6], "data_offsets": [0, 12]}}, 12)
    with pytest.raises(UnsupportedModel, match=r"model\.safetensors: tensor 'w' cannot be held as a tensor.*F4"):
        pull(file)


def test_a_file_with_bytes_after_its_end(file: Path) -> None:
    save_file({"w": torch.randn(4, 6)}, file)
    file.write_bytes(file.read_bytes() + bytes(8))
    with pytest.raises(CorruptCheckpoint, match=r"model\.safetensors"):
        pull(file)


def test_any_damaged_byte_of_the_header(file: Path) -> None:
    """Either it is refused with a typed error, or nothing that matters changed: never a crash, never other numbers."""
    w = torch.arange(24.0).reshape(4, 6) + 1
    save_file({"w": w}, file)
    sound = file.read_bytes()
    end = 8 + struct.unpack("<Q", sound[:8])[0]
    refused = 0
    for at in range(end):
        for flip in (0x01, 0x80):
            file.write_bytes(sound[:at] + bytes([sound[at] ^ flip]) + sound[at + 1 :])
            try:
                read = pull(file)
            except QuireError as error:
                assert str(file) in str(error)
                refused += 1
            else:
                assert torch.equal(read, w), (at, flip)
    assert refused > end


def header(file: Path, entries: dict[str, object], num_bytes: int) -> None:
    text = json.dumps(entries).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(num_bytes))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [4, 6], "data_offsets": [0, 92]},
        {"dtype": "F32", "shape": [4, 7], "data_offsets": [0, 96]},
        {"dtype": "F32", "shape": [4, 6], "data_offsets": [96, 0]},
        {"dtype": "F32", "shape": [4, 6], "data_offsets": [8, 104]},
        {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 96]},
        {"dtype": "F31", "shape": [4, 6], "data_offsets": [0, 96]},
        {"dtype": "F32", "shape": [4, -6], "data_offsets": [0, 96]},
        {},
        7,
    ],
)
def test_a_header_that_lies(file: Path, entry: object) -> None:
    header(file, {"w": entry}, 96)
    with pytest.raises(CorruptCheckpoint, match=r"model\.safetensors is not a whole safetensors file"):
        pull(file)


def test_a_header_longer_than_memory(file: Path) -> None:
    file.write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(CorruptCheckpoint, match=r"model\.safetensors"):
        pull(file)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_values_that_are_not_finite(file: Path, bad: float, dtype: torch.dtype) -> None:
    w = torch.randn(4, 6)
    w[3, 5] = bad
    save_file({"w": w}, file)
    with pytest.raises(CorruptCheckpoint, match=r"tensor 'w' holds a value that is not finite"):
        pull(file, dtype=dtype)


def test_large_values_are_no_fault_where_they_fit(file: Path) -> None:
    w = torch.full((4, 6), 3e38)
    save_file({"w": w}, file)
    assert torch.equal(pull(file), w)
    with pytest.raises(CorruptCheckpoint, match=r"not finite in float16.*--dtype float32"):
        pull(file, dtype=torch.float16)


@pytest.mark.parametrize("stored", [torch.int8, torch.int32, torch.bool, torch.float8_e4m3fn], ids=str)
def test_numbers_of_another_kind_are_not_taken_for_weights(file: Path, stored: torch.dtype) -> None:
    save_file({"w": torch.ones(4, 6).to(stored)}, file)
    with pytest.raises(UnsupportedModel, match=r"tensor 'w' is stored as .* where the model holds float32"):
        pull(file)


def test_integers_come_as_they_are_stored(file: Path) -> None:
    w = torch.arange(24, dtype=torch.int32).reshape(4, 6)
    save_file({"w": w}, file)
    assert torch.equal(pull(file, dtype=torch.int32), w)
    with pytest.raises(UnsupportedModel, match="stored as int32 where the model holds int64"):
        pull(file, dtype=torch.int64)


def test_another_format_than_asked_for(tiny_checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match="load_format is gguf"):
        open_source(open_checkpoint(tiny_checkpoint("llama")), "gguf")


def test_left_over_tensors_are_refused(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    load_model(open_checkpoint(tmp_path), dtype=torch.float32, device=CPU)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"model.layers.0.extra.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CorruptCheckpoint, match=r"model.layers.0.extra.weight"):
        load_model(open_checkpoint(tmp_path), dtype=torch.float32, device=CPU)
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CorruptCheckpoint, match=r"no tensor 'model.layers.1.mlp.up_proj.weight'"):
        load_model(open_checkpoint(tmp_path), dtype=torch.float32, device=CPU)
