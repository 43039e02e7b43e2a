"""Products in Triton, plain and of 8 bits: the reference's numbers, and the same bits for a row in any company."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from quire.kernels.ops.fp8 import FP8, fp8_gated_linear, fp8_linear, quantize_fp8, quantize_fp8_static
from quire.kernels.ops.linear import gated_linear, linear
from quire.kernels.ops.w8a8 import quantize_int8, quantize_int8_static, w8a8_linear
from quire.kernels.triton.fp8 import multiply_fp8, multiply_fp8_gates, multiply_int8
from quire.kernels.triton.linear import multiply_gates, multiply_plain
from quire.kernels.triton.matmul import multiply
from quire.kernels.triton.product_tiles import THIN_PLAIN_ROWS, THIN_ROWS, thin_tile
from quire.kernels.triton.quantize import round_fp8, round_fp8_static, round_int8, round_int8_static

Product = Callable[..., Tensor]
N, K = 136, 656
KINDS = ("token", "static", "blocks", "int8", "int8 static")


def of_8_bits(kind: str) -> tuple[Product, Product]:
    """The body and the reference, with a weight."""
    given = torch.tensor([0.01]) if "static" in kind else None
    scale = (torch.rand((2, 6) if kind == "blocks" else (N,)) + 0.5) / K**0.5
    if "int8" in kind:
        weight = torch.randint(-127, 128, (N, K), dtype=torch.int8)
        bodies: tuple[Product, Product] = multiply_int8, w8a8_linear
    else:
        weight = torch.randn(N, K).to(FP8)
        bodies = multiply_fp8, fp8_linear
    body, reference = (partial(one, weight=weight, weight_scale=scale, input_scale=given) for one in bodies)
    return body, reference


@pytest.mark.parametrize("rows", (1, 11, 70))
@pytest.mark.parametrize("kind", KINDS)
def test_products_of_8_bits_are_the_reference(kind: str, rows: int) -> None:
    body, reference = of_8_bits(kind)
    x, bias = torch.randn(rows, 2 * K).bfloat16()[:, :K], torch.randn(N).bfloat16()
    residual = torch.randn(rows, N + 8).bfloat16()[:, :N]
    for more in ({}, {"bias": bias, "residual": residual}):
        y = body(x, **more)
        assert y.dtype == torch.bfloat16 and y.is_contiguous()
        torch.testing.assert_close(y, reference(x, **more), rtol=2**-7, atol=2**-9)


@pytest.mark.parametrize("kind", ("token", "blocks", "int8"))
def test_a_row_of_8_bits_has_the_same_bits_alone(kind: str) -> None:
    body, _ = of_8_bits(kind)
    x = torch.randn(THIN_ROWS + 1, K).bfloat16()
    few = body(x[:THIN_ROWS])
    for rows in (slice(0, 1), slice(3, 8), slice(9, 21)):
        assert torch.equal(body(x[rows]), few[rows])
    many = torch.cat((x, x[:40]))
    assert torch.equal(body(many)[: len(x)], body(x))


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("rows", (1, 7, THIN_PLAIN_ROWS, THIN_PLAIN_ROWS + 1))
def test_plain_products_are_the_reference(rows: int, dtype: torch.dtype) -> None:
    x, weight, bias = torch.randn(rows, K).to(dtype), (torch.randn(N, K) / 20).to(dtype), torch.randn(N).to(dtype)
    residual = torch.randn(rows, N).to(dtype)
    near = {"rtol": 2 * torch.finfo(dtype).eps, "atol": torch.finfo(dtype).eps}
    torch.testing.assert_close(multiply_plain(x, weight), linear(x.double(), weight.double()).to(dtype), **near)
    exact = linear(x.double(), weight.double(), bias.double(), residual.double())
    torch.testing.assert_close(multiply_plain(x, weight, bias, residual), exact.to(dtype), **near)


@pytest.mark.parametrize("activation", ("silu", "gelu_tanh"))
@pytest.mark.parametrize("rows", (1, 9, THIN_PLAIN_ROWS + 1))
def test_gated_products_are_the_reference(rows: int, activation: str) -> None:
    x, weight = torch.randn(rows, 96).bfloat16(), (torch.randn(2 * 40, 96) / 10).bfloat16()
    exact = gated_linear(x.float(), weight.float(), activation)
    torch.testing.assert_close(multiply_gates(x, weight, activation).float(), exact, rtol=2**-6, atol=2**-7)


@pytest.mark.parametrize("rows", (1, 9, THIN_ROWS + 1))
@pytest.mark.parametrize("kind", ("token", "static", "blocks"))
def test_gated_products_of_8_bits_are_the_reference(kind: str, rows: int) -> None:
    given = torch.tensor([0.01]) if kind == "static" else None
    scale = (torch.rand((2, 2) if kind == "blocks" else (256,)) + 0.5) / 14
    x, weight = torch.randn(rows, 208).bfloat16(), torch.randn(256, 208).to(FP8)
    expected = fp8_gated_linear(x.float(), weight, scale, "silu", given)
    y = multiply_fp8_gates(x, weight, scale, "silu", given)
    torch.testing.assert_close(y.float(), expected, rtol=2**-6, atol=2**-6)


def test_tiles_do_not_show() -> None:
    """Who computes what is no part of a sum's order."""
    x, weight = torch.randn(6, K).bfloat16(), torch.randn(N, K).bfloat16()
    tile = thin_tile(6, N, K, 2)
    other = tile._replace(rows=2 * tile.rows, outputs=2 * tile.outputs, num_stages=2)
    found = [multiply(x, weight, "plain", x.dtype, tile=one) for one in (None, tile, other)]
    assert torch.equal(found[0], found[1]) and torch.equal(found[1], found[2])


def test_a_plain_row_has_the_same_bits_alone() -> None:
    x, weight = torch.randn(THIN_PLAIN_ROWS, K).bfloat16(), torch.randn(N, K).bfloat16()
    for body in (multiply_plain, partial(multiply_gates, activation="silu")):
        whole = body(x, weight)
        for rows in (slice(0, 1), slice(2, 4), slice(5, 13)):
            assert torch.equal(body(x[rows], weight), whole[rows])


def test_nothing_is_multiplied() -> None:
    for kind in KINDS:
        assert of_8_bits(kind)[0](torch.randn(0, K).bfloat16()).shape == (0, N)
    assert multiply_plain(torch.randn(0, K).bfloat16(), torch.randn(N, K).bfloat16()).shape == (0, N)


@pytest.mark.parametrize("size", (48, 1000))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_rounding_is_the_references_to_the_bit(size: int, dtype: torch.dtype) -> None:
    x = (torch.randn(4, 2 * size) * torch.tensor([1e-3, 1, 30, 0])[:, None]).to(dtype)[:, :size]
    assert round_fp8(x[:0])[1].shape == (0, 1)
    pairs = [(round_fp8(x, group), quantize_fp8(x, group)) for group in (None, 128)]
    pairs += [(round_int8(x), quantize_int8(x))]
    scale = torch.tensor([0.02])
    pairs += [((round_fp8_static(x, scale), scale), (quantize_fp8_static(x, scale), scale))]
    pairs += [((round_int8_static(x, scale), scale), (quantize_int8_static(x, scale), scale))]
    for found, expected in pairs:
        assert torch.equal(found[0].float(), expected[0].float())
        assert torch.equal(found[1], expected[1])
