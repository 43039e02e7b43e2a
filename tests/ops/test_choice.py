"""Greedy choice and inverse CDF: ties, unsound rows, exact masses, true frequencies."""

import numpy as np
import pytest
import torch

from quire.decoding.random import uniforms
from quire.kernels.ops.choice import draw, greedy, masses, rescale

INF = float("inf")
NAN = float("nan")


def test_greedy_takes_the_first_of_equals() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0], [-1.0, -1.0, -1.0, -1.0], [-INF, -5.0, -INF, -5.0]])
    assert greedy(logits).tolist() == [1, 0, 1]


@pytest.mark.parametrize("position", [0, 7, 40])
@pytest.mark.parametrize("poison", [NAN, INF])
def test_unsound_rows_are_told_apart(poison: float, position: int) -> None:
    logits = torch.linspace(-1, 1, 41).repeat(3, 1)
    logits[1, position] = poison
    assert greedy(logits).tolist() == [40, -1, 40]
    assert rescale(logits, torch.ones(3)).tolist() == [False, True, False]
    assert logits.isfinite().all() and (logits <= 0).all()


def test_a_row_without_any_token_is_unsound() -> None:
    logits = torch.tensor([[-INF, -INF], [-INF, 0.0]])
    assert greedy(logits).tolist() == [-1, 1]
    assert rescale(logits, torch.ones(2)).tolist() == [True, False]


def test_the_smallest_temperature_does_not_overflow() -> None:
    logits = torch.tensor([[3e38, -3e38, 2.9e38, -INF]])
    assert rescale(logits, torch.tensor([1e-5])).tolist() == [False]
    assert logits.tolist() == [[0.0, -INF, -INF, -INF]]
    assert masses(logits).tolist() == [[2**52, 0, 0, 0]]


def test_masses_stay_exact_in_float64() -> None:
    for vocab_size in (1, 7, 49152, 262_144):
        total = int(masses(torch.zeros(1, vocab_size)).sum())
        assert abs(total / 2**52 - 1) < 1e-5 and total < 2**53


def test_draw_never_lands_on_an_empty_place() -> None:
    cumulative = torch.tensor([[0, 0, 3, 3, 10, 10]]).expand(5, -1).contiguous()
    uniform = torch.tensor([0.0, 0.29, 0.31, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert draw(cumulative, torch.full((5,), 10), uniform).tolist() == [2, 2, 4, 4, 4]
    largest = torch.full((5, 1), 2**52)
    assert draw(largest, largest[:, 0], uniform).tolist() == [0] * 5


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_probabilities(temperature: float) -> None:
    num_draws = 20_000
    logits = torch.from_numpy(np.random.default_rng(1).normal(0, 1.5, 50).astype(np.float32))
    expected = torch.softmax(logits.double() / temperature, 0).numpy() * num_draws
    rows = logits.repeat(num_draws, 1)
    rescale(rows, torch.full((num_draws,), temperature))
    cumulative = masses(rows).cumsum(1)
    uniform = torch.from_numpy(uniforms(np.full(num_draws, 99, np.uint64), np.arange(num_draws)))
    counts = np.bincount(draw(cumulative, cumulative[:, -1], uniform).numpy(), minlength=50)
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(expected[common], max(expected[~common].sum(), 1e-9))
    # At most 50 degrees of freedom; 96 is beyond the 99.99th percentile.
    assert ((observed - expected) ** 2 / expected).sum() < 96
