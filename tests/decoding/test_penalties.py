"""Penalties: the arithmetic, and the counts behind it."""

from collections.abc import Callable

import numpy as np
import torch

from quire.core.step import Admission
from quire.decoding.penalties import Penalties

CPU = torch.device("cpu")
V = 8


def apply(penalties: Penalties, slots: list[int], row: list[float]) -> list[list[float]]:
    logits = torch.tensor([row] * len(slots))
    penalties.apply(logits, np.array(slots))
    return logits.tolist()


def test_repetition_covers_the_prompt_and_the_others_do_not(admit: Callable[..., Admission]) -> None:
    penalties = Penalties(2, V, CPU)
    penalties.admit(admit(0, [0, 1], [2, 2, 3], repetition_penalty=2.0, frequency_penalty=0.5, presence_penalty=0.25))
    row = [4.0, -4.0, 4.0, -4.0, 4.0, -4.0, 0.0, -np.inf]
    assert apply(penalties, [0], row) == [[2.0, -8.0, 2 - 1.25, -8 - 0.75, 4.0, -4.0, 0.0, -np.inf]]


def test_other_rows_are_left_alone(admit: Callable[..., Admission]) -> None:
    penalties = Penalties(3, V, CPU)
    penalties.admit(admit(1, [0], [1], presence_penalty=1.0))
    penalties.admit(admit(2, [0], [1], repetition_penalty=0.5))
    row = [1.0, 2.0] + [0.0] * 6
    assert apply(penalties, [2, 0, 1], row) == [[2.0, 4.0] + [0.0] * 6, row, [1.0, 1.0] + [0.0] * 6]


def test_recorded_tokens_count_as_admitted_ones_do(admit: Callable[..., Admission]) -> None:
    penalties = Penalties(4, V, CPU)
    strengths = {"frequency_penalty": 0.5, "presence_penalty": 0.125, "repetition_penalty": 1.5}
    penalties.admit(admit(0, [5], **strengths))
    penalties.admit(admit(3, [5], [1, 1, 2], **strengths))
    for token in (1, 1, 2):
        penalties.record(np.array([2, 0]), np.array([7, token]))  # slot 2 has no penalties
    fresh, resumed = apply(penalties, [0, 3], [1.0] * V)
    assert fresh == resumed


def test_a_window_holds_the_last_tokens_of_prompt_and_answer(admit: Callable[..., Admission]) -> None:
    """Recorded one by one, or resumed with."""
    tokens = [1, 1, 2, V, 3, 3, 1, 4, 2]
    strengths = {"frequency_penalty": 0.5, "presence_penalty": 0.125, "repetition_penalty": 1.5, "penalty_window": 3}
    for length in range(1, len(tokens) + 1):
        penalties = Penalties(2, V, CPU)
        penalties.admit(admit(0, tokens[:1], **strengths))
        penalties.admit(admit(1, tokens[:1], tokens[1:length], **strengths))
        for token in tokens[1:length]:
            if token == V:  # which no model chooses
                penalties.release(np.array([0]))
                penalties.admit(admit(0, tokens[:4], **strengths))
            else:
                penalties.record(np.array([0]), np.array([token]))
        followed, resumed = apply(penalties, [0, 1], [1.0] * V)
        window = tokens[:length][-3:]
        expected = [1.0] * V
        for token in set(window) - {V}:
            expected[token] = 1.0 / np.float32(1.5) - 0.5 * window.count(token) - 0.125
        assert followed == resumed
        np.testing.assert_allclose(resumed, expected, rtol=1e-6)


def test_a_slot_starts_clean_after_release(admit: Callable[..., Admission]) -> None:
    penalties = Penalties(5, V, CPU)
    for _ in range(3):
        for slot in range(5):
            penalties.admit(admit(slot, [slot], [slot + 1], presence_penalty=1.0))
        expected = [[-1.0 if token == slot + 1 else 0.0 for token in range(V)] for slot in range(5)]
        assert apply(penalties, list(range(5)), [0.0] * V) == expected
        penalties.release(np.arange(5))
        assert apply(penalties, list(range(5)), [0.0] * V) == [[0.0] * V] * 5


def test_tokens_beyond_the_vocabulary_are_passed_over(admit: Callable[..., Admission]) -> None:
    penalties = Penalties(1, V, CPU)
    penalties.admit(admit(0, [1, V, 2**31 - 1], [V + 3, 2], repetition_penalty=2.0))
    assert apply(penalties, [0], [2.0] * V) == [[2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0]]
