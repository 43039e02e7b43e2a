"""What is said of a model's files without reading weights."""

import json

import pytest

from quire.checkpoint.checkpoint import open_checkpoint
from quire.checkpoint.facts import facts_of
from quire.core.errors import CorruptCheckpoint


def folder(path, tensors, **config):
    header = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    (path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (path / "config.json").write_text(json.dumps(config))
    return open_checkpoint(path)


def tensor(dtype, *shape):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [0, 0]}


def test_a_folder_says_what_it_is(tmp_path):
    tensors = {"a": tensor("BF16", 10, 20), "b": tensor("F32", 5), "c": tensor("F32")}
    found = facts_of(folder(tmp_path, tensors, model_type="llama", hidden_size=20, vocab_size="x"))
    assert (found.format, found.family, found.quantization) == ("safetensors", "llama", "BF16")
    assert found.num_parameters == 206
    assert found.num_bytes == (tmp_path / "model.safetensors").stat().st_size
    assert found.dimensions == {"hidden_size": 20}


def test_methods_and_wrapped_configs_are_seen(tmp_path):
    config = {"text_config": {"hidden_size": 7}, "quantization_config": {"quant_method": "awq"}}
    found = facts_of(folder(tmp_path, {"a": tensor("I32", 3)}, **config))
    assert (found.quantization, found.family, found.dimensions) == ("AWQ", "unknown", {"hidden_size": 7})


@pytest.mark.parametrize("data", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{", b"\x02\0\0\0\0\0\0\0[]"])
def test_files_that_are_none_are_named(tmp_path, data):
    checkpoint = folder(tmp_path, {})
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(CorruptCheckpoint, match=r"model\.safetensors"):
        facts_of(checkpoint)


@pytest.mark.parametrize("extent", ["x", [1], None, 1.5])
def test_shapes_that_are_none_are_named(tmp_path, extent):
    checkpoint = folder(tmp_path, {"a": tensor("F32", extent)})
    with pytest.raises(CorruptCheckpoint, match=r"model\.safetensors"):
        facts_of(checkpoint)


def test_tiny_checkpoints(tiny_checkpoint):
    found = facts_of(open_checkpoint(tiny_checkpoint("llama")))
    assert (found.family, found.quantization) == ("llama", "F32")
    assert found.num_bytes > 4 * found.num_parameters > 0
