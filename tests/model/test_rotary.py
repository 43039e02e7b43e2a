"""Frequencies: those of transformers, for every kind of scaling and both spellings."""

from typing import Any

import pytest
import torch

from quire.core.errors import CorruptCheckpoint, UnsupportedModel
from quire.model.fields import Fields
from quire.model.layers.rotary import Rotary, frequencies, read_rope

HEAD_DIM, MAX_POSITION = 64, 4096
LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=1024)
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": dict(rope_type="linear", factor=3.0),
    "dynamic": dict(rope_type="dynamic", factor=2.5),
    "llama3": dict(rope_type="llama3", **LLAMA3),
    "llama3 without its length": dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=2.0),
    "yarn": dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=1024),
    "yarn betas": dict(rope_type="yarn", factor=40.0, beta_fast=16.0, beta_slow=2.0),
    "yarn not truncated": dict(rope_type="yarn", factor=4.0, truncate=False, original_max_position_embeddings=512),
    "yarn mscale": dict(rope_type="yarn", factor=40.0, mscale=1.0, mscale_all_dim=0.7),
    "yarn attention factor": dict(rope_type="yarn", factor=4.0, attention_factor=1.25),
    "yarn without a factor": dict(rope_type="yarn", factor=None, original_max_position_embeddings=1024),
}


def theirs(scaling: dict[str, Any], seq_len: int | None = None) -> tuple[torch.Tensor, float]:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(
        head_dim=HEAD_DIM, max_position_embeddings=MAX_POSITION, rope_parameters=dict(rope_theta=5e5) | scaling
    )
    return ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, torch.device("cpu"), seq_len=seq_len)


def newer(scaling: dict[str, Any]) -> Fields:
    return Fields({"max_position_embeddings": MAX_POSITION, "rope_parameters": {"rope_theta": 5e5, **scaling}})


def older(scaling: dict[str, Any]) -> Fields:
    kind = {"type": scaling["rope_type"]}
    rest = {key: value for key, value in scaling.items() if key != "rope_type"}
    return Fields({"max_position_embeddings": MAX_POSITION, "rope_theta": 5e5, "rope_scaling": kind | rest})


@pytest.mark.parametrize("spelling", (newer, older))
@pytest.mark.parametrize("name", SCALINGS)
def test_equals_transformers(name: str, spelling: Any) -> None:
    inv_freq, factor = frequencies(read_rope(spelling(SCALINGS[name])), HEAD_DIM)
    expected, expected_factor = theirs(SCALINGS[name])
    torch.testing.assert_close(inv_freq, expected, rtol=1e-6, atol=0)
    assert factor == pytest.approx(expected_factor, rel=1e-9)


def test_dynamic_is_that_of_the_longest_sequence() -> None:
    rope = read_rope(newer(SCALINGS["dynamic"]))
    for longest in (100, MAX_POSITION, 3 * MAX_POSITION):
        inv_freq, _ = frequencies(rope, HEAD_DIM, max_model_len=longest)
        torch.testing.assert_close(inv_freq, theirs(SCALINGS["dynamic"], longest)[0], rtol=1e-5, atol=0)


def test_unscaled() -> None:
    plain = 1e4 ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    for config in ({}, {"rope_scaling": None}, {"rope_theta": 1e4}, {"rope_parameters": {"rope_type": "default"}}):
        inv_freq, factor = frequencies(read_rope(Fields(config)), HEAD_DIM)
        torch.testing.assert_close(inv_freq, plain)
        assert factor == 1


def test_angles_are_those_of_positions_alone() -> None:
    rotary = Rotary(read_rope(newer(SCALINGS["yarn"])), HEAD_DIM, torch.device("cpu"))
    positions = torch.tensor([0, 5, 100_000, 5])
    cos, sin = rotary(positions)
    assert cos.shape == sin.shape == (4, HEAD_DIM // 2)
    assert torch.equal(cos[1], cos[3])
    assert torch.equal(torch.stack(rotary(positions[2:3]))[:, 0], torch.stack((cos[2], sin[2])))
    torch.testing.assert_close(
        cos[0], torch.full((HEAD_DIM // 2,), frequencies(read_rope(newer(SCALINGS["yarn"])), 64)[1])
    )


@pytest.mark.parametrize(
    ("scaling", "error", "message"),
    [
        ({"rope_type": "longrope"}, UnsupportedModel, "longrope"),
        ({"rope_type": "linear"}, CorruptCheckpoint, r"rope_parameters\.factor"),
        ({"rope_type": "linear", "factor": 0}, CorruptCheckpoint, r"rope_parameters\.factor is 0"),
        ({"rope_type": 3}, CorruptCheckpoint, "rope_type is 3"),
        ({"rope_type": "llama3", **LLAMA3, "high_freq_factor": 1.0}, CorruptCheckpoint, "high_freq_factor"),
        ({"rope_type": "linear", "factor": 10**400}, CorruptCheckpoint, r"rope_parameters\.factor"),
        ({"rope_type": "yarn", "factor": 2.0, "rope_theta": 1.0}, UnsupportedModel, "rope_theta 1.0"),
    ],
)
def test_what_is_wrong_is_named(scaling: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        frequencies(read_rope(newer(scaling)), HEAD_DIM)


@pytest.mark.parametrize("turns", [5e-324, 1e308])
def test_yarn_of_any_number_of_turns(turns: float) -> None:
    scaling = {"rope_type": "yarn", "factor": 2.0, "beta_fast": turns, "beta_slow": turns}
    assert frequencies(read_rope(newer(scaling)), HEAD_DIM)[0].isfinite().all()


@pytest.mark.parametrize("kind", ["dynamic", "yarn"])
def test_heads_that_are_too_small_to_stretch(kind: str) -> None:
    with pytest.raises(UnsupportedModel, match="heads of 2"):
        frequencies(read_rope(newer({"rope_type": kind, "factor": 2.0})), 2)
