"""Weights in GGUF's block formats: the same numbers, right products, and the same bits whoever is beside a row."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from quire.kernels.cpu import blocks as bodies
from quire.kernels.cpu.block_packing import empty_blocks, fill_blocks
from quire.kernels.cpu.library import Library, Pool
from quire.kernels.cpu.packing import Packer
from quire.kernels.cpu.program import CannotRecord, Program, Rows
from quire.kernels.ops.blocks import (
    BLOCK_LAYOUTS,
    BlockMatrix,
    block_embedding,
    block_likeliest,
    block_linear,
    block_logits,
    rounded,
)
from quire.kernels.ops.dequantize import FORMATS, dequantize
from quire.kernels.ops.norm import rms_norm

pytestmark = pytest.mark.native

assert bodies  # its import offers the native bodies

DTYPES = [torch.float32, torch.bfloat16]
ROWS = [1, 2, 3, 6, 7, 12, 13, 40]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def blocks_of(block_type: str, num_out: int, num_in: int, seed: int = 0) -> Tensor:
    """Rows of random blocks: every code, and factors of both signs."""
    draw, form = np.random.default_rng(seed), FORMATS[block_type]
    blocks = draw.integers(0, 256, (num_out, num_in // form.num_values, form.num_bytes), dtype=np.uint8)
    for at in BLOCK_LAYOUTS[block_type].factors:
        factors = draw.normal(0, 0.02, (*blocks.shape[:2], 1)).astype(np.float16)
        blocks[..., at : at + 2] = factors.view(np.uint8)
    return torch.from_numpy(blocks.reshape(num_out, -1))


def expanded(block_type: str, rows: Tensor, num_in: int) -> Tensor:
    values = torch.empty(len(rows), num_in)
    dequantize(rows, block_type, values)
    return values


def pack(
    native: Any, block_type: str, rows: Tensor, num_in: int, dtype: torch.dtype, cuts: Sequence[int] = ()
) -> BlockMatrix:
    """Packed in pieces that end at ``cuts``."""
    packer = Packer(native.library, native.pool)
    matrix = empty_blocks(packer, len(rows), num_in, block_type, dtype)
    for first, last in zip((0, *cuts), (*cuts, len(rows)), strict=True):
        fill_blocks(packer, matrix, first, rows[first:last])
    return matrix


def sizes(block_type: str) -> list[tuple[int, int]]:
    """One block, and tiles that are not full."""
    block = FORMATS[block_type].num_values
    return [(70, block), (5, 3 * block), (33, 512)]


@pytest.mark.parametrize("block_type", BLOCK_LAYOUTS)
def test_packing_keeps_the_numbers(native: Any, block_type: str) -> None:
    for num_out, num_in in sizes(block_type):
        rows = blocks_of(block_type, num_out, num_in)
        matrix = pack(native, block_type, rows, num_in, torch.float32)
        assert torch.equal(matrix.unpack(), expanded(block_type, rows, num_in))
        parts = pack(native, block_type, rows, num_in, torch.float32, cuts=(1, num_out // 3 + 1, num_out - 2))
        assert torch.equal(parts.data, matrix.data)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block_type", BLOCK_LAYOUTS)
def test_linear(native: Any, block_type: str, dtype: torch.dtype) -> None:
    for num_out, num_in in sizes(block_type):
        rows = blocks_of(block_type, num_out, num_in)
        matrices = (pack(native, block_type, rows, num_in, dtype),)
        x, bias, residual = (normal(ROWS[-1], n, seed=n, dtype=dtype) for n in (num_in, num_out, num_out))
        x[::3, 5] *= 30  # some rows have an outlier, which is not rounded where there are other groups
        whole = native.replay(block_linear, x, matrices, bias[0], residual=residual)
        weight = expanded(block_type, rows, num_in).double()
        # What float32 may lose is a share of the terms' magnitudes.
        allowed = rounded(x).double().abs() @ weight.abs().T * 3e-7 + 1e-6
        exact = rounded(x).double() @ weight.T + bias[0].double() + residual.double()
        if dtype == torch.bfloat16:
            allowed = allowed + exact.abs() * 2.0**-8
        assert ((whole.double() - exact).abs() <= allowed).all()
        reference = block_linear.reference(x, matrices, bias[0], residual)
        assert ((whole.double() - reference.double()).abs() <= 2 * allowed).all()
        for count in ROWS:
            some = native.replay(block_linear, x[-count:], matrices, bias[0], residual=residual[-count:])
            assert torch.equal(some, whole[-count:]), count


@pytest.mark.parametrize("code", [0x00, 0x7F, 0x80, 0xFF])
@pytest.mark.parametrize("block_type", BLOCK_LAYOUTS)
def test_the_greatest_sums_have_room(native: Any, block_type: str, code: int) -> None:
    """Of products of 8 bits with each format's extreme codes; numbers of one magnitude all become 127 or -127."""
    rows = blocks_of(block_type, 20, 512)
    factors = BLOCK_LAYOUTS[block_type].factors
    blocks = rows.view(-1, FORMATS[block_type].num_bytes)
    blocks[:, [at for at in range(blocks.shape[1]) if not any(f <= at < f + 2 for f in factors)]] = code
    signs = torch.ones(6, 512)
    signs[1] = -1
    signs[2, ::2] = signs[3, 1::2] = signs[4, ::4] = signs[5, 256:] = -1
    found = native.replay(block_linear, signs, (pack(native, block_type, rows, 512, torch.float32),))
    weight = expanded(block_type, rows, 512).double()
    allowed = signs.double().abs() @ weight.abs().T * 1e-5 + 1e-5  # a sum without room is off by 2^16
    assert ((found.double() - signs.double() @ weight.T).abs() <= allowed).all()


@pytest.mark.parametrize("outliers", [[], [40], [40, 41]], ids=str)
@pytest.mark.parametrize("block_type", BLOCK_LAYOUTS)
def test_rounding_the_input_moves_a_product_by_less_than_a_hundredth(
    native: Any, block_type: str, outliers: list[int]
) -> None:
    """Of its size without outliers: in 8 bits alone the numbers beside one as large as 300 would be lost."""
    rows = blocks_of(block_type, 64, 512)
    x = normal(30, 512)
    size = (x.double() @ expanded(block_type, rows, 512).double().T).norm()
    x[:, outliers] = x[:, outliers].sign() * 300  # of two alike, one alone would gain nothing
    found = native.replay(block_linear, x, (pack(native, block_type, rows, 512, torch.float32),))
    exact = x.double() @ expanded(block_type, rows, 512).double().T
    assert (found.double() - exact).norm() < 0.01 * size


@pytest.mark.parametrize("block_type", BLOCK_LAYOUTS)
def test_a_number_that_stands_out_is_not_rounded(native: Any, block_type: str) -> None:
    """Wherever it stands: alone in its row, its product is that of float32."""
    rows = blocks_of(block_type, 40, 512)
    x = torch.diag(normal(512))
    found = native.replay(block_linear, x, (pack(native, block_type, rows, 512, torch.float32),))
    assert torch.equal(found, x.diag()[:, None] * expanded(block_type, rows, 512).T)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matrices_side_by_side(native: Any, dtype: torch.dtype) -> None:
    """Two formats and plain numbers, none a whole number of tiles."""
    names = ("Q5_0", "Q8_0", None)
    matrices = [
        native.pack(normal(19, 96, seed=i, dtype=dtype)) if name is None
        else pack(native, name, blocks_of(name, 19, 96, seed=i), 96, dtype)
        for i, name in enumerate(names)
    ]  # fmt: skip
    x, bias, residual = normal(9, 96, dtype=dtype), normal(57, dtype=dtype), normal(9, 57, seed=1, dtype=dtype)
    found = native.replay(block_linear, x, matrices, bias, residual=residual)
    for i, matrix in enumerate(matrices):
        columns = slice(19 * i, 19 * i + 19)
        alone = native.replay(block_linear, x, (matrix,), bias[columns].clone(), residual=residual[:, columns].clone())
        assert torch.equal(found[:, columns], alone)
    reference = block_linear.reference(x, matrices, bias, residual)
    torch.testing.assert_close(found, reference, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-4)


@pytest.mark.parametrize("block_type", ["Q4_1", "Q8_0", "Q6_K"])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_scores(native: Any, block_type: str, softcap: float | None) -> None:
    table = pack(native, block_type, blocks_of(block_type, 517, 256), 256, torch.bfloat16)
    x = normal(30, 256, dtype=torch.bfloat16) / 64
    scores = native.replay(block_logits, x, table, softcap)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, block_logits.reference(x, table, softcap), rtol=1e-4, atol=1e-4)
    best = native.replay(block_likeliest, x, table, softcap)
    assert torch.equal(best, scores.argmax(1).int())


def test_rows_that_are_broken_are_broken_alone(native: Any) -> None:
    table = pack(native, "Q4_0", blocks_of("Q4_0", 40, 64), 64, torch.float32)
    x = normal(6, 64)
    x[1, 40], x[3, 3], x[4] = float("nan"), -float("inf"), 0
    scores = native.replay(block_logits, x, table, None)
    assert scores[[1, 3]].isnan().all()
    assert scores[[0, 2, 5]].isfinite().all()
    assert (scores[4] == 0).all()
    ids = native.replay(block_likeliest, x, table, None)
    assert ids[[1, 3]].tolist() == [-1, -1]
    assert ids[4] == 0
    tiny = native.replay(block_logits, torch.full((1, 64), 1e-38), table, None)
    assert (tiny == 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block_type", BLOCK_LAYOUTS)
@pytest.mark.parametrize("scale", [1.0, 3.25])
def test_embedding(native: Any, block_type: str, dtype: torch.dtype, scale: float) -> None:
    rows = blocks_of(block_type, 75, 256)
    table = pack(native, block_type, rows, 256, dtype)
    ids = torch.tensor([0, 74, 31, 32, 33, 63, 64, 5] * 4)
    found = native.replay(block_embedding, ids, table, scale)
    assert torch.equal(found, (expanded(block_type, rows, 256)[ids] * scale).to(dtype))
    assert torch.equal(found, block_embedding.reference(ids, table, scale))


def test_sizes_that_cannot_be(native: Any) -> None:
    packer = Packer(native.library, native.pool)
    with pytest.raises(CannotRecord, match="blocks of Q4_K"):
        empty_blocks(packer, 8, 288, "Q4_K", torch.float32)
    table = pack(native, "Q8_0", blocks_of("Q8_0", 8, 64), 64, torch.bfloat16)
    with pytest.raises(CannotRecord, match="packed by"):
        native.replay(block_logits, normal(1, 64), table, None)


def test_a_thread_that_comes_late_rounds_what_others_write_already(level: Library) -> None:
    """Few rows are rounded by each thread for itself: late, from a buffer that is another operator's by then."""
    pool, num_rows, size = Pool(level, 8), 7, 576
    program = Program(level, dict.fromkeys(Rows, num_rows))
    matrix = empty_blocks(packer := Packer(level, pool), size, size, "Q8_0", torch.float32)
    fill_blocks(packer, matrix, 0, blocks_of("Q8_0", size, size))
    y = program.wrap(normal(num_rows, size), Rows.TOKENS)
    for i in range(60):
        y = rms_norm(block_linear(y, (matrix,), None), torch.full((size,), 1000.0 ** (i % 3)), 1e-5)
    counts = dict.fromkeys(("tokens", "sequences", "asked", "sampled"), num_rows)
    program.run(pool, **counts)
    wanted = y.as_subclass(Tensor).clone()
    for _ in range(300):
        program.run(pool, **counts)
    assert torch.equal(y.as_subclass(Tensor), wanted)
