"""Mixtures of experts in Triton: the references' choices and places, and products that know no company."""

import pytest
import torch
from torch import Tensor

from quire.kernels.ops.fp8 import FP8
from quire.kernels.ops.moe import Routing, align, combine, experts_mlp, grouped_linear, route
from quire.kernels.triton.moe import multiply_grouped, multiply_mlp, tiles_of
from quire.kernels.triton.product_tiles import THIN_ROWS
from quire.kernels.triton.routing import CHUNK, add_answers, choose_experts, place_pairs

E = 5
SIZES = {"plain": (80, 48), "rows": (80, 48), "blocks": (144, 128)}
"""Of a token and inside an expert; what scales in blocks meet is split by blocks."""


@pytest.mark.parametrize(
    ("num_experts", "routing", "has_bias"),
    (
        (8, Routing(2), False),
        (60, Routing(4, is_renormalized=False, factor=1.5), False),
        (24, Routing(3, "sigmoid"), True),
        (24, Routing(4, "sigmoid", num_groups=4, top_groups=2, factor=2.5), True),
        (18, Routing(3, num_groups=3, top_groups=2, is_renormalized=False), False),
    ),
)
def test_routing_is_the_references(num_experts: int, routing: Routing, has_bias: bool) -> None:
    logits = torch.randn(6, 2 * num_experts)[:, :num_experts]
    logits[0] = 0
    bias = torch.randn(num_experts) / 4 if has_bias else None
    weights, experts = choose_experts(logits, routing, bias)
    expected_weights, expected = route(logits, routing, bias)
    assert torch.equal(experts, expected)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-5, atol=1e-7)
    assert choose_experts(logits[:0], routing, bias)[1].shape == (0, routing.top_k)


@pytest.mark.parametrize(("num_rows", "size"), ((1, 8), (40, 16), (CHUNK + 100, 8)))
def test_places_are_the_references(num_rows: int, size: int) -> None:
    experts = torch.randint(-1, 7, (num_rows, 2), dtype=torch.int32)
    found, expected = place_pairs(experts, 6, size), align(experts, 6, size)
    assert torch.equal(found.experts, expected.experts)
    used = int((expected.experts >= 0).sum()) * size
    assert torch.equal(found.pairs[:used], expected.pairs[:used])


def test_answers_are_added_in_order() -> None:
    y, weights, residual = torch.randn(9, 1100).bfloat16(), torch.rand(3, 3), torch.randn(3, 1200).bfloat16()[:, :1100]
    experts = torch.tensor([[0, 1, 2], [3, -1, 1], [4, 2, 0]], dtype=torch.int32)
    y[4], y[6] = torch.nan, torch.nan
    for more in (None, residual):
        expected = combine(y, weights, experts, 4, more)
        torch.testing.assert_close(add_answers(y, weights, experts, 4, more), expected, rtol=2**-7, atol=1e-3)


def made(kind: str, *shape: int) -> tuple[Tensor, Tensor | None]:
    weight = torch.randn(shape) / shape[-1] ** 0.5
    if kind == "plain":
        return weight.bfloat16(), None
    e, n, k = shape
    scale = torch.rand((e, n) if kind == "rows" else (e, -(-n // 128), -(-k // 128))) + 0.5
    return weight.to(FP8), scale


def chosen(num_rows: int, top_k: int = 2) -> tuple[Tensor, Tensor]:
    weights, experts = route(torch.randn(num_rows, E), Routing(top_k))
    experts[0, 0] = -1
    experts[-1, -1] = E
    return weights, experts


def mlp(kind: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor | None, Tensor | None]]:
    width, inside = SIZES[kind]
    (gate_up, scale_in), (down, scale_out) = made(kind, E, 2 * inside, width), made(kind, E, width, inside)
    return (gate_up, down), (scale_in, scale_out)


@pytest.mark.parametrize(
    ("kind", "num_rows"),
    (
        ("plain", 3),
        ("plain", 50),
        ("plain", 130),
        ("rows", 20),
        ("rows", 130),
        ("blocks", 3),
        ("blocks", 20),
        ("blocks", 130),
    ),
)
def test_the_experts_answer_is_the_references(kind: str, num_rows: int) -> None:
    """In tiles of one pair (3 tokens), of 16 (20), of 32 (50) and of 64 (130)."""
    weights_of, scales = mlp(kind)
    weights, experts = chosen(num_rows)
    dtype = torch.bfloat16 if kind == "plain" else torch.float32  # whose numbers fall to the same side in 8 bits
    x, residual = torch.randn(2, num_rows, SIZES[kind][0]).to(dtype)
    args = (*weights_of, weights, experts, "silu", *scales, residual)
    y, expected = multiply_mlp(x, *args), experts_mlp(x, *args)
    assert y.dtype == x.dtype
    assert (y - expected).float().norm() < 0.004 * expected.float().norm()
    torch.testing.assert_close(y, expected, rtol=2**-6, atol=0.03)


@pytest.mark.parametrize("num_rows", (3, 130))
def test_weights_of_float32_keep_their_digits(num_rows: int) -> None:
    gate_up, down = torch.randn(E, 96, 80) / 9, torch.randn(E, 80, 48) / 7
    x, (weights, experts) = torch.randn(num_rows, 80), chosen(num_rows)
    args = (gate_up, down, weights, experts, "gelu_tanh")
    torch.testing.assert_close(multiply_mlp(x, *args), experts_mlp(x, *args), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", SIZES)
def test_grouped_products_are_the_reference(kind: str) -> None:
    weight, scale = made(kind, E, 72, 272)
    _, experts = chosen(20)
    x = torch.randn(20, 2 * 272).bfloat16()[:, :272]
    y = multiply_grouped(x, weight, experts, scale)
    torch.testing.assert_close(y, grouped_linear(x, weight, experts, scale), rtol=2**-7, atol=2**-8)
    assert not y[0].any() and not y[-1].any()


@pytest.mark.parametrize("kind", ("plain", "blocks"))
def test_a_row_has_the_same_bits_alone(kind: str) -> None:
    """Among few rows, in tiles of any height."""
    weights_of, scales = mlp(kind)
    num_rows = 11 * E
    x, (weights, experts) = torch.randn(num_rows, SIZES[kind][0]).bfloat16(), chosen(num_rows)
    assert tiles_of(experts, E).rows == THIN_ROWS

    def answer(rows: slice) -> Tensor:
        return multiply_mlp(x[rows], *weights_of, weights[rows], experts[rows], "silu", *scales)

    whole = answer(slice(0, num_rows))
    for rows in (slice(1, 2), slice(7, 27)):
        assert torch.equal(answer(rows), whole[rows])


def test_nothing_is_asked() -> None:
    (gate_up, down), _ = mlp("plain")
    nobody, x = torch.empty(0, 2, dtype=torch.int32), torch.empty(0, 80).bfloat16()
    assert multiply_mlp(x, gate_up, down, nobody.float(), nobody).shape == (0, 80)
    assert multiply_grouped(x, gate_up, nobody).shape == (0, 96)
    assert place_pairs(nobody, E, 16).experts.shape == (0,)
