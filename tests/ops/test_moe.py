"""Mixtures of experts: who is chosen, how pairs are sorted, and what comes of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from quire.kernels.ops.moe import Routing, align, combine, experts_mlp, grouped_linear, max_tiles, route

E, K, F = 6, 64, 32


def test_softmax_routing_is_the_definition() -> None:
    logits = torch.randn(9, E)
    weights, experts = route(logits, Routing(3))
    expected = logits.double().softmax(-1).topk(3)
    assert torch.equal(experts.long(), expected.indices)
    torch.testing.assert_close(weights.double(), expected.values / expected.values.sum(-1, keepdim=True))
    plain, _ = route(logits, Routing(3, is_renormalized=False, factor=2.5))
    torch.testing.assert_close(plain.double(), expected.values * 2.5)


def test_equal_scores_go_to_the_lowest_numbers() -> None:
    assert route(torch.zeros(2, E), Routing(4))[1].tolist() == [[0, 1, 2, 3]] * 2


def test_sigmoid_routing_chooses_with_the_bias_and_weighs_without_it() -> None:
    logits = torch.tensor([[3.0, 2.0, -1.0, -2.0, 1.0, 0.0]])
    bias = torch.tensor([0.0, 0.0, 5.0, 0.0, 0.0, 4.0])
    weights, experts = route(logits, Routing(2, "sigmoid", is_renormalized=False), bias)
    assert experts.tolist() == [[2, 5]]
    torch.testing.assert_close(weights, logits[:, [2, 5]].sigmoid())


def test_groups_limit_the_choice() -> None:
    logits = torch.tensor([[5.0, -5.0, 2.0, 1.9, 1.8, 1.7]])
    assert route(logits, Routing(2, "sigmoid", num_groups=3, top_groups=1))[1].tolist() == [[0, 1]]
    # With a bias, a group is as good as its two best: 0.88 + 0.87 against 0.99 + 0.01.
    assert route(logits, Routing(2, "sigmoid", num_groups=3, top_groups=1), torch.zeros(E))[1].tolist() == [[2, 3]]


@given(st.lists(st.lists(st.integers(-1, E), min_size=2, max_size=2), max_size=20), st.sampled_from((1, 4, 16)))
def test_every_pair_has_one_place_in_a_tile_of_its_expert(chosen: list[list[int]], size: int) -> None:
    experts = torch.tensor(chosen, dtype=torch.int32).view(-1, 2)
    tiles = align(experts, E, size)
    assert len(tiles.experts) == max_tiles(experts.numel(), E, size)
    used = int((tiles.experts >= 0).sum())
    assert bool((tiles.experts[:used] >= 0).all())
    places = tiles.pairs.view(-1, size)[:used] if used else tiles.pairs.view(-1, size)[:0]
    found = places[places < experts.numel()]
    flat = experts.flatten()
    assert sorted(found.tolist()) == [i for i, expert in enumerate(flat.tolist()) if 0 <= expert < E]
    for expert, pairs in zip(tiles.experts[:used], places, strict=True):
        inside = pairs[pairs < len(flat)]
        assert len(inside)
        assert bool((flat[inside.long()] == expert).all())
        assert inside.tolist() == sorted(inside.tolist())


def weights_of(kind: str) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    draw = torch.Generator().manual_seed(1)
    gate_up = torch.randn(E, 2 * F, K, generator=draw) / 8
    down = torch.randn(E, K, F, generator=draw) / 8
    if kind == "plain":
        return gate_up.bfloat16(), down.bfloat16(), None, None
    shapes = ((E, 1, 1), (E, 1, 1)) if kind == "blocks" else ((E, 2 * F), (E, K))
    scales = [torch.rand(shape, generator=draw) + 0.5 for shape in shapes]
    return gate_up.to(torch.float8_e4m3fn), down.to(torch.float8_e4m3fn), *scales


@pytest.mark.parametrize("kind", ("plain", "rows", "blocks"))
def test_is_the_weighted_sum_of_the_experts(kind: str) -> None:
    gate_up, down, scale_in, scale_out = weights_of(kind)
    x, residual = torch.randn(7, K).bfloat16(), torch.randn(7, K).bfloat16()
    weights, experts = route(torch.randn(7, E), Routing(2))
    experts[3, 1] = -1
    experts[5] = E
    y = experts_mlp(x, gate_up, down, weights, experts, "silu", scale_in, scale_out, residual)
    expected = residual.double()
    for t, j in ((t, j) for t in range(7) for j in range(2)):
        e = int(experts[t, j])
        if 0 <= e < E:
            wide = [w[e].double() for w in (gate_up, down)]
            if scale_in is not None and scale_out is not None:
                scales = scale_in[e].double(), scale_out[e].double()
                wide = [w * (s[:, None] if s.dim() == 1 else s) for w, s in zip(wide, scales, strict=True)]
            gate, up = (x[t].double() @ wide[0].T).chunk(2)
            expected[t] += weights[t, j].double() * ((torch.nn.functional.silu(gate) * up) @ wide[1].T)
    torch.testing.assert_close(y.double(), expected, rtol=0.02, atol=0.02 if kind == "plain" else 0.1)
    alone = experts_mlp(x[2:3], gate_up, down, weights[2:3], experts[2:3], "silu", scale_in, scale_out, residual[2:3])
    assert torch.equal(alone, y[2:3])


def test_nothing_comes_of_nothing() -> None:
    gate_up, down, _, _ = weights_of("plain")
    x = torch.empty(0, K).bfloat16()
    weights, experts = route(torch.empty(0, E), Routing(2))
    assert experts_mlp(x, gate_up, down, weights, experts).shape == (0, K)
    assert grouped_linear(x, gate_up, experts).shape == (0, 2 * F)


def test_what_is_not_here_counts_for_nothing_even_if_it_is_no_number() -> None:
    y = torch.tensor([[1.0], [torch.nan]])
    assert combine(y, torch.ones(1, 2), torch.tensor([[0, -1]]).int(), 1).tolist() == [[1.0]]
