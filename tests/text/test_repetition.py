"""Repetition is noticed at the very token that completes it, and nowhere else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.core.errors import InvalidRequest
from quire.core.sampling_params import MAX_PATTERN_SIZE, RepetitionDetection
from quire.text.repetition import RepetitionDetector


def repeats(tokens: list[int], wanted: RepetitionDetection) -> bool:
    """By looking at the whole."""
    for size in range(wanted.min_pattern_size, wanted.max_pattern_size + 1):
        total = size * wanted.min_count
        if len(tokens) >= total and tokens[-total:] == tokens[-size:] * wanted.min_count:
            return True
    return False


@settings(max_examples=300, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 2), max_size=40),
    smallest=st.integers(1, 4),
    more=st.integers(0, 3),
    count=st.integers(2, 4),
)
def test_the_first_repetition_is_noticed(tokens: list[int], smallest: int, more: int, count: int) -> None:
    wanted = RepetitionDetection(max_pattern_size=smallest + more, min_pattern_size=smallest, min_count=count)
    detector = RepetitionDetector(wanted)
    for at, token in enumerate(tokens, start=1):
        assert detector.push(token) == repeats(tokens[:at], wanted)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"max_pattern_size": 0}, "max_pattern_size"),
        ({"max_pattern_size": MAX_PATTERN_SIZE + 1}, "max_pattern_size"),
        ({"min_pattern_size": 9}, "min_pattern_size"),
        ({"min_count": 1}, "min_count"),
        ({"min_count": 2.5}, "min_count"),
    ],
)
def test_sizes_and_counts_have_bounds(changes: dict[str, object], path: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        RepetitionDetection(**{"max_pattern_size": 8, "min_pattern_size": 1, "min_count": 3} | changes)  # type: ignore[arg-type]
    assert caught.value.param == f"$.repetition_detection.{path}"
