"""The generator: known answers, range, uniformity, independence of neighbours."""

import numpy as np
import pytest

from quire.decoding.random import uniforms


def grid(num_seeds: int, num_positions: int, first_seed: int = 0) -> np.ndarray:
    """[num_seeds, num_positions]."""
    seeds = np.repeat(np.arange(first_seed, first_seed + num_seeds, dtype=np.uint64), num_positions)
    positions = np.tile(np.arange(num_positions), num_seeds)
    return uniforms(seeds, positions).reshape(num_seeds, num_positions)


def test_seed_zero_gives_the_published_splitmix64_sequence() -> None:
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    expected = [(bits >> 11) / 2**53 for bits in published]
    assert uniforms(np.zeros(3, np.uint64), np.arange(3)).tolist() == expected


def test_numbers_lie_in_the_half_open_unit_interval() -> None:
    seeds = np.array([0, 1, 2**63, 2**64 - 1], np.uint64)
    numbers = uniforms(np.repeat(seeds, 1000), np.tile(np.arange(1000), 4))
    assert numbers.dtype == np.float64
    assert (numbers >= 0).all() and (numbers < 1).all()
    assert len(np.unique(numbers)) == 4000


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    seeds = np.arange(50, dtype=np.uint64) * np.uint64(977)
    positions = np.arange(50) * 3
    together = uniforms(seeds, positions)
    alone = [uniforms(seeds[i : i + 1], positions[i : i + 1])[0] for i in range(50)]
    assert together.tolist() == alone


@pytest.mark.parametrize(("num_seeds", "num_positions"), [(1, 100_000), (100_000, 1), (300, 300)])
def test_numbers_are_uniform_along_seeds_and_positions(num_seeds: int, num_positions: int) -> None:
    counts = np.bincount((grid(num_seeds, num_positions).ravel() * 100).astype(int), minlength=100)
    expected = counts.sum() / 100
    # 99 degrees of freedom: mean 99, standard deviation 14; 160 is beyond the 99.99th percentile.
    assert ((counts - expected) ** 2 / expected).sum() < 160


@pytest.mark.parametrize("axis", [0, 1])
def test_neighbours_are_independent(axis: int) -> None:
    numbers = grid(400, 400, first_seed=12345)
    first, second = (numbers[:-1], numbers[1:]) if axis == 0 else (numbers[:, :-1], numbers[:, 1:])
    pairs = (first * 8).astype(int) * 8 + (second * 8).astype(int)
    counts = np.bincount(pairs.ravel(), minlength=64)
    expected = counts.sum() / 64
    assert ((counts - expected) ** 2 / expected).sum() < 115  # 63 degrees of freedom
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 4 / first.size**0.5
