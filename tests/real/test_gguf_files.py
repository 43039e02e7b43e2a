"""The real models' files: our reader sees in them what the gguf package sees."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from quire.checkpoint.checkpoint import open_checkpoint
from quire.checkpoint.gguf_names import placements


def test_reader_equals_the_gguf_package(smollm2: Path) -> None:
    oracle = gguf.GGUFReader(smollm2)
    checkpoint = open_checkpoint(smollm2)
    assert checkpoint.gguf is not None
    with checkpoint.gguf as file:
        assert set(file.metadata) == {name for name in oracle.fields if not name.startswith("GGUF.")}
        for name, value in file.metadata.items():
            field = oracle.fields[name]
            if len(field.data) < 1000:
                assert value == field.contents(), name
                continue
            # The package takes long over whole vocabularies.
            assert len(value) == len(field.data)
            for index in (*range(300), *range(300, len(value), len(value) // 1000), len(value) - 1):
                assert value[index] == field.contents(index), (name, index)
        assert list(file.tensors) == [tensor.name for tensor in oracle.tensors]
        for tensor in oracle.tensors:
            assert file.tensors[tensor.name].type == tensor.tensor_type.name
            assert np.array_equal(file.data(tensor.name), tensor.data.reshape(-1, tensor.data.shape[-1]).view(np.uint8))


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_every_tensor_has_a_place(model: str, request: pytest.FixtureRequest) -> None:
    checkpoint = open_checkpoint(request.getfixturevalue(model))
    assert checkpoint.gguf is not None
    with checkpoint.gguf as file:
        assert len(placements(file, checkpoint.config)) == len(file.tensors)


def test_config_of_smollm2(smollm2: Path) -> None:
    config = open_checkpoint(smollm2).config
    # As published in the model's config.json.
    published = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    published |= {"num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192}
    published |= {"rms_norm_eps": 1e-5, "rope_theta": 100_000, "tie_word_embeddings": True, "model_type": "llama"}
    assert {name: config[name] for name in published} == published


def test_config_of_gemma3(gemma3: Path) -> None:
    config = open_checkpoint(gemma3).config
    # As published in the model's config.json; every sixth layer sees everything.
    published = {"hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18, "head_dim": 256}
    published |= {"num_attention_heads": 4, "num_key_value_heads": 1, "vocab_size": 262144, "sliding_window": 512}
    published |= {
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000,
        "model_type": "gemma3_text",
    }
    published |= {"rope_local_base_freq": 10_000, "max_position_embeddings": 32768}
    assert {name: config[name] for name in published} == published
    full = [layer for layer, kind in enumerate(config["layer_types"]) if kind == "full_attention"]
    assert full == [5, 11, 17]
