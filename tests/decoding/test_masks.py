"""allowed_token_ids, bad_words, min_tokens, logit_bias."""

from collections.abc import Callable

import numpy as np
import torch

from quire.core.step import Admission
from quire.decoding.masks import Constraints

CPU = torch.device("cpu")
V = 8
Admit = Callable[..., Admission]


def apply(constraints: Constraints, logits: torch.Tensor, slots: np.ndarray, positions: np.ndarray) -> None:
    constraints.apply(logits, slots, positions, constraints.ruled(slots, positions))


def masked(constraints: Constraints, slot: int, position: int) -> list[int]:
    """Ids that the rules forbid at this position."""
    logits = torch.zeros((1, V))
    apply(constraints, logits, np.array([slot]), np.array([position]))
    return torch.isneginf(logits[0]).nonzero().flatten().tolist()


def test_a_sequence_without_rules_has_none(admit: Admit) -> None:
    constraints = Constraints(1, V, CPU)
    assert not constraints.admit(admit(stop=(4,)))
    assert not constraints.admit(admit(min_tokens=3))
    assert masked(constraints, 0, 3) == []


def test_only_allowed_ids_remain(admit: Admit) -> None:
    constraints = Constraints(2, V, CPU)
    assert constraints.admit(admit(1, allowed_token_ids=(2, 5, V, 10_000)))
    assert masked(constraints, 1, 3) == [0, 1, 3, 4, 6, 7]
    assert masked(constraints, 0, 3) == []


def test_stop_ids_are_masked_until_min_tokens(admit: Admit) -> None:
    constraints = Constraints(1, V, CPU)
    constraints.admit(admit(0, [1, 1, 1], min_tokens=2, stop=(4, 6, V + 1)))
    assert [masked(constraints, 0, position) for position in (3, 4, 5, 6)] == [[4, 6], [4, 6], [], []]


def test_bias_is_added_after_masks(admit: Admit) -> None:
    constraints = Constraints(1, V, CPU)
    constraints.admit(admit(allowed_token_ids=(2, 3), logit_bias={2: 1.5, 4: 100.0, V: 3.0}))
    logits = torch.ones((1, V))
    apply(constraints, logits, np.array([0]), np.array([3]))
    assert logits[0, 2:5].tolist() == [2.5, 1.0, -np.inf]


def test_bad_words_forbid_their_last_token_only(admit: Admit) -> None:
    constraints = Constraints(1, V, CPU)
    constraints.admit(admit(0, [1, 2], bad=((7,), (1, 2), (1, 2, 3), (2, 2, 4), (V,), (1, V))))
    seen = [masked(constraints, 0, 2)]  # the prompt ends in 1, 2, which begins nothing
    for position, token in enumerate((1, 2, 2, 5), start=3):
        constraints.record(np.array([0]), np.array([token]))
        seen.append(masked(constraints, 0, position))
    assert seen == [[7], [2, 7], [3, 7], [4, 7], [7]]


def test_bad_words_survive_resumption(admit: Admit) -> None:
    constraints = Constraints(1, V, CPU)
    constraints.admit(admit(0, [1], [3, 3, 1, 2], bad=((1, 2, 3), (3, 1, 2, 6), (3, 3, 1, 5))))
    assert masked(constraints, 0, 5) == [3, 6]


def test_release_forgets_everything(admit: Admit) -> None:
    constraints = Constraints(2, V, CPU)
    constraints.admit(admit(0, min_tokens=9, stop=(1,), bad=((2,),), allowed_token_ids=(1, 2)))
    constraints.release(np.array([0, 1]))
    assert masked(constraints, 0, 3) == []
    constraints.record(np.array([0]), np.array([1]))
