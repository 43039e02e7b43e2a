"""Folders in Hugging Face's layout: what is read, and what is said when something is missing or wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from quire.checkpoint.checkpoint import Checkpoint, open_checkpoint
from quire.core.errors import CorruptCheckpoint, ModelUnavailable, UnsupportedModel


def folder(path: Path, **files: Any) -> Checkpoint:
    """A folder of files; ``a__json`` is a.json, values that are no text become JSON."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 2}))
    for name, value in files.items():
        content = value if isinstance(value, str) else json.dumps(value)
        (path / name.replace("__", ".")).write_text(content)
    return open_checkpoint(path)


def touch(path: Path, *names: str) -> list[Path]:
    for name in names:
        (path / name).write_bytes(b"weights")
    return [path / name for name in names]


def test_what_a_folder_says(tmp_path: Path) -> None:
    wrapped = {"model_type": "gemma3", "auto_map": {"AutoModel": "x.Y"}, "text_config": {"eos_token_id": [106, 1]}}
    generation = {"eos_token_id": [1, 5], "temperature": 0.5}
    checkpoint = folder(tmp_path, config__json=wrapped, generation_config__json=generation, tokenizer__json={})
    assert checkpoint.config == wrapped and checkpoint.generation_config == generation
    assert checkpoint.eos_token_ids == (1, 5, 106)
    assert checkpoint.file("tokenizer.json") == tmp_path / "tokenizer.json"
    assert checkpoint.file("tokenizer.model") is None
    assert (checkpoint.format, checkpoint.gguf, checkpoint.path) == ("safetensors", None, tmp_path)


def test_a_quantization_in_a_file_of_its_own(tmp_path: Path) -> None:
    """As older quantizers wrote it; what config.json says itself comes first."""
    gptq = folder(tmp_path / "gptq", quantize_config__json={"bits": 4, "group_size": 128})
    assert gptq.config["quantization_config"] == {"quant_method": "gptq", "bits": 4, "group_size": 128}
    assert gptq.config["model_type"] == "llama"
    awq = folder(tmp_path / "awq", quant_config__json={"w_bit": 4, "version": "GEMM"})
    assert awq.config["quantization_config"]["quant_method"] == "awq"
    stated = {"quantization_config": {"quant_method": "fp8"}}
    both = folder(tmp_path / "both", config__json=stated, quantize_config__json={"bits": 4})
    assert both.config == stated


def test_nothing_but_a_config(tmp_path: Path) -> None:
    checkpoint = folder(tmp_path)
    assert checkpoint.generation_config == {} and checkpoint.chat_template is None
    assert checkpoint.eos_token_ids == (2,)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config__json": {"chat_template": "plain"}}, "plain"),
        ({"tokenizer_config__json": {"chat_template": None}}, None),
        ({"chat_template__json": {"chat_template": "own"}, "tokenizer_config__json": {"chat_template": "old"}}, "own"),
        ({"chat_template__jinja": "jinja", "tokenizer_config__json": {"chat_template": "old"}}, "jinja"),
        (
            {
                "tokenizer_config__json": {
                    "chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
                }
            },
            "d",
        ),
        ({"tokenizer_config__json": {"chat_template": [{"name": "only", "template": "o"}]}}, "o"),
        ({"tokenizer_config__json": {"chat_template": {"rag": "r", "default": "d"}}}, "d"),
    ],
)
def test_chat_templates(tmp_path: Path, files: dict[str, Any], expected: str | None) -> None:
    assert folder(tmp_path, **files).chat_template == expected


def test_weights_of_an_index(tmp_path: Path) -> None:
    names = ("a-00001-of-00002.safetensors", "a-00002-of-00002.safetensors")
    checkpoint = folder(tmp_path, model__safetensors__index__json={"weight_map": {"x": names[1], "y": names[0]}})
    expected = touch(tmp_path, *names)
    touch(tmp_path, "consolidated.safetensors", "model.fp16.safetensors")
    assert checkpoint.weight_files == expected


def test_weights_without_an_index(tmp_path: Path) -> None:
    touch(tmp_path, "consolidated.safetensors")
    assert [path.name for path in folder(tmp_path).weight_files] == ["consolidated.safetensors"]
    pair = touch(tmp_path, "x-00001-of-00002.safetensors", "x-00002-of-00002.safetensors")
    assert folder(tmp_path).weight_files == pair
    assert folder(tmp_path).weight_files == pair
    (single,) = touch(tmp_path, "model.safetensors")
    assert folder(tmp_path).weight_files == [single]


def test_missing_shards_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "x-00001-of-00003.safetensors")
    with pytest.raises(CorruptCheckpoint, match=r"2 of 3 .* \(x-00002-of-00003.safetensors, x-00003"):
        _ = folder(tmp_path).weight_files
    with pytest.raises(CorruptCheckpoint, match=r"1 of 1 .*gone.safetensors"):
        _ = folder(tmp_path, model__safetensors__index__json={"weight_map": {"x": "gone.safetensors"}}).weight_files
    with pytest.raises(CorruptCheckpoint, match=r"1 of 1 .*aaa.safetensors"):
        long = "a" * 300 + ".safetensors"
        _ = folder(tmp_path, model__safetensors__index__json={"weight_map": {"x": long}}).weight_files


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "x.bin", "..\\x", 7])
def test_an_index_names_only_files_beside_it(tmp_path: Path, name: Any) -> None:
    with pytest.raises(CorruptCheckpoint, match="no safetensors file beside it"):
        _ = folder(tmp_path, model__safetensors__index__json={"weight_map": {"x": name}}).weight_files


def test_pickles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptCheckpoint, match=r"no \*\.safetensors"):
        _ = folder(tmp_path).weight_files
    touch(tmp_path, "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match=r"pytorch_model.bin only.*can run code"):
        _ = folder(tmp_path).weight_files


def test_a_git_lfs_pointer_is_no_weight(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    with pytest.raises(CorruptCheckpoint, match="git lfs pull"):
        _ = folder(tmp_path).weight_files


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "[1]", "null", '{"a": 1} x'])
def test_json_that_is_none(tmp_path: Path, content: str) -> None:
    with pytest.raises(CorruptCheckpoint, match=r"config\.json"):
        _ = folder(tmp_path, config__json=content).config


def test_json_that_is_no_text(tmp_path: Path) -> None:
    checkpoint = folder(tmp_path)
    (tmp_path / "generation_config.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(CorruptCheckpoint, match="not UTF-8"):
        _ = checkpoint.generation_config


@pytest.mark.parametrize("value", ["</s>", [1, "x"], -1, 1.5, 2**40, True])
def test_ends_that_are_no_ids(tmp_path: Path, value: Any) -> None:
    with pytest.raises(CorruptCheckpoint, match="eos_token_id"):
        _ = folder(tmp_path, config__json={"eos_token_id": value}).eos_token_ids


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="does not exist"):
        open_checkpoint(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorruptCheckpoint, match=r"no config\.json"):
        _ = open_checkpoint(tmp_path / "empty").config
    touch(tmp_path, "a.gguf", "b.gguf")
    with pytest.raises(ModelUnavailable, match=r"2 GGUF files \(a.gguf, b.gguf\)"):
        open_checkpoint(tmp_path)
