"""Block formats: every value equals, bit for bit, what the gguf package makes of the same bytes."""

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from quire.checkpoint.gguf_types import BLOCK_TYPES
from quire.kernels.ops import dequantize as module
from quire.kernels.ops.dequantize import FORMATS, dequantize

ROWS = 7
HALF_FACTORS = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "F16": (0,),
}
"""Bytes where a block's float16 factors begin: anything may stand elsewhere."""


def random_bytes(kind: str, num_blocks: int) -> np.ndarray:
    """[ROWS, bytes per row] uint8: all bits random, but factors of a sensible size and either sign."""
    draw = np.random.default_rng(len(kind) + num_blocks)
    size = FORMATS[kind].num_bytes
    blocks = draw.integers(0, 256, (ROWS * num_blocks, size), dtype=np.uint8)
    for start in HALF_FACTORS.get(kind, ()):
        factors = draw.normal(0, 0.1, (len(blocks), 1)).astype(np.float16)
        blocks[:, start : start + 2] = factors.view(np.uint8)
    if kind in ("F32", "BF16"):
        values = draw.normal(0, 1, (len(blocks), 1)).astype(np.float32).view(np.uint8)
        blocks = np.ascontiguousarray(values[:, 4 - size :])
    return blocks.reshape(ROWS, num_blocks * size)


def expand(data: np.ndarray, kind: str, dtype: torch.dtype) -> torch.Tensor:
    form = FORMATS[kind]
    out = torch.full((len(data), data.shape[1] // form.num_bytes * form.num_values), torch.nan, dtype=dtype)
    dequantize(torch.from_numpy(data), kind, out)
    return out


def oracle(data: np.ndarray, kind: str) -> torch.Tensor:
    return torch.from_numpy(quants.dequantize(data, GGMLQuantizationType[kind]).astype(np.float32))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("num_blocks", [1, 5])
def test_random_bytes(kind: str, num_blocks: int) -> None:
    data = random_bytes(kind, num_blocks)
    expected = oracle(data, kind)
    assert expected.unique().numel() >= ROWS
    torch.testing.assert_close(expand(data, kind, torch.float32), expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_quantized_weights(kind: str) -> None:
    """What the gguf package quantized comes back near where it was, and exactly where the package puts it."""
    weights = np.random.default_rng(0).normal(0, 0.02, (ROWS, 96)).astype(np.float32)
    data = quants.quantize(weights, GGMLQuantizationType[kind])
    values = expand(data, kind, torch.float32)
    assert torch.equal(values, oracle(data, kind))
    assert (values - torch.from_numpy(weights)).abs().max() < 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["Q4_1", "Q6_K", "F32", "BF16"])
def test_other_types_are_the_float32_values_rounded_once(kind: str, dtype: torch.dtype) -> None:
    data = random_bytes(kind, 3)
    assert torch.equal(expand(data, kind, dtype), oracle(data, kind).to(dtype))


@pytest.mark.parametrize("kind", ["Q4_1", "Q3_K"])
def test_chunks_do_not_show(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_bytes(kind, 5)
    monkeypatch.setattr(module, "_CHUNK", FORMATS[kind].num_values * 4)
    assert torch.equal(expand(data, kind, torch.float32), oracle(data, kind))


def test_formats_are_those_that_files_may_have() -> None:
    sizes = {kind: (form.num_values, form.num_bytes) for kind, form in FORMATS.items()}
    assert sizes == {name: (block.elements, block.num_bytes) for name, block in BLOCK_TYPES.items()}
    assert sizes == {kind: GGML_QUANT_SIZES[GGMLQuantizationType[kind]] for kind in FORMATS}
