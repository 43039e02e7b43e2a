"""What top_k, top_p and min_p keep."""

from itertools import accumulate

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.kernels.ops.choice import masses
from quire.kernels.ops.truncation import count_kept, draw_truncated, drop_improbable

SPREAD = torch.cat((torch.linspace(0, 1, 101, dtype=torch.float64), torch.tensor([1 - 2.0**-53])))
SPREAD[100] = 0.999


def drawn(scaled: torch.Tensor, top_k: int, top_p: float, uniform: torch.Tensor = SPREAD) -> list[int]:
    """Tokens drawn from one row [V] with each of the uniform numbers."""
    n = len(uniform)
    rows = scaled.repeat(n, 1)
    return draw_truncated(
        rows, masses(rows), torch.full((n,), top_k), torch.full((n,), top_p, dtype=torch.float64), uniform
    ).tolist()


def kept(scaled: torch.Tensor, top_k: int, top_p: float) -> list[int]:
    """The smallest beginning of the ranking that holds top_p, in integers."""
    mass, values = masses(scaled[None])[0].tolist(), scaled.tolist()
    order = sorted(range(len(mass)), key=lambda token: (-values[token], token))[:top_k]
    cumulative = list(accumulate(mass[token] for token in order))
    return order[: next(count for count, held in enumerate(cumulative, 1) if held >= top_p * cumulative[-1])]


rows = st.lists(
    st.one_of(st.sampled_from([0.0, -0.5, -3.0, float("-inf")]), st.floats(-20, 0, width=32)), min_size=1, max_size=60
).map(lambda values: torch.tensor([0.0, *values]))


@given(rows, st.data(), st.floats(0, 1, exclude_min=True))
def test_the_kept_set_is_the_smallest_that_suffices(scaled: torch.Tensor, data: st.DataObject, top_p: float) -> None:
    top_k = data.draw(st.integers(1, len(scaled)))
    expected = kept(scaled, top_k, top_p)
    tokens = drawn(scaled, top_k, top_p)
    assert set(tokens) <= set(expected)
    assert tokens[0] == expected[0]
    with_mass = [token for token in expected if int(masses(scaled[None])[0, token]) > 0]
    if int(masses(scaled[None])[0, with_mass[-1]]) > 2:  # else the last number in [0, 1) may fall short of it
        assert tokens[-1] == with_mass[-1]


@given(rows, st.data(), st.floats(0, 1, exclude_min=True))
def test_looking_further_changes_no_count(scaled: torch.Tensor, data: st.DataObject, top_p: float) -> None:
    top_k = data.draw(st.integers(1, len(scaled)))
    cumulative = masses(scaled[None]).sort(dim=1, descending=True).values.cumsum(1)
    arguments = cumulative[:, -1], torch.tensor([top_k]), torch.tensor([top_p], dtype=torch.float64), len(scaled)
    whole = int(count_kept(cumulative, *arguments))
    assert 1 <= whole <= top_k
    for width in range(1, len(scaled)):
        count = int(count_kept(cumulative[:, :width], *arguments))
        tells = whole <= width and (top_k <= width or top_k == len(scaled))
        assert count == whole if tells else count > width


def test_top_p_is_a_share_of_what_top_k_left() -> None:
    """Also where top_k reaches beyond the first look."""
    scaled = torch.zeros(2000)
    assert max(drawn(scaled, 500, 0.5)) == 249
    assert max(drawn(scaled, 200, 0.5)) == 99
    assert max(drawn(scaled, 2000, 0.5)) == 999


def test_top_k_one_is_the_likeliest_lowest_id() -> None:
    assert set(drawn(torch.tensor([-1.0, 0.0, 0.0, -0.1]), 1, 1.0)) == {1}


def test_wide_nuclei_are_found_by_looking_further() -> None:
    """Near-flat rows of 9000 tokens need the first, second and last look; each row must get its own."""
    generator = torch.Generator().manual_seed(0)
    scaled = -torch.rand((6, 9000), generator=generator)
    scaled -= scaled.amax(1, keepdim=True)
    top_k = torch.tensor([9000, 9000, 9000, 3, 300, 9000])
    top_p = torch.tensor([0.01, 0.3, 0.95, 0.9, 1.0, 1.0], dtype=torch.float64)
    uniform = torch.full((6,), 0.999, dtype=torch.float64)
    together = draw_truncated(scaled, masses(scaled), top_k, top_p, uniform).tolist()
    for i in range(6):
        assert drawn(scaled[i], int(top_k[i]), float(top_p[i]), uniform[i : i + 1]) == together[i : i + 1]
        expected = kept(scaled[i], int(top_k[i]), float(top_p[i]))
        mass = np.cumsum(masses(scaled[i : i + 1])[0, expected].numpy())
        assert together[i] == expected[int(np.searchsorted(mass, 0.999 * mass[-1], side="right"))]


def test_min_p_keeps_what_is_near_the_likeliest() -> None:
    scaled = torch.log(torch.tensor([[1.0, 0.5, 0.21, 0.19, 0.0]])).repeat(3, 1)
    drop_improbable(scaled, torch.tensor([0.2, 1.0, 0.0]).log())
    assert scaled.isfinite().tolist() == [
        [True, True, True, False, False],
        [True, False, False, False, False],
        [True, True, True, True, False],
    ]
