"""Recorded steps find on the device what changed there, whether they are told of it or settle it before."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quire.engine.worker.recorded_steps import DecodeSteps, Inputs, Layout, MixedSteps, Parts
from quire.engine.worker.recorder import Repeater
from quire.engine.worker.sizes import Sizes
from quire.engine.worker.slot_tokens import DeviceTokens

BLOCK, SPARE = 4, 99


class Model:
    """Hidden states are tokens; the likeliest token is the next number."""

    def __call__(self, tokens: Tensor, context: Any) -> Tensor:
        return tokens[:, None].clone()

    def likeliest(self, hidden: Tensor) -> Tensor:
        return (hidden[:, 0] + 1).int()


class Attention:
    """Notes what it is told."""

    def plan_on_device(self, **told: Any) -> Any:
        self.told = {name: value.clone() for name, value in told.items() if isinstance(value, Tensor)}

    def chunks(self, num_tokens: int, max_seqs: int) -> Any:
        return SimpleNamespace(tell=lambda counts, lens: None)


def parts() -> tuple[Any, Any]:
    """For three sequences of four blocks at most."""
    attention: Any = Attention()
    model: Any = Model()
    tokens = DeviceTokens(3, 16, 4, SPARE, torch.device("cpu"))
    for slot in range(3):
        tokens.admit(slot, np.arange(5, dtype=np.int32) + 10 * slot)
    sizes = Sizes(BLOCK, 3, 8, 16, torch.float32)
    kv: Any = None
    return Parts(model, kv, attention, tokens, sizes), attention


def blocks(*changes: tuple[int, int, int]) -> np.ndarray:
    """Of (slot, index, block): [3, n]."""
    return np.array(changes).T


def test_decode_steps_follow_blocks_tokens_and_places() -> None:
    made, attention = parts()
    steps = DecodeSteps(made)
    steps.record(Repeater())
    slots = np.array([0, 2])
    made.tokens.set_blocks(*blocks((0, 1, 7), (2, 1, 8)))
    found = steps.replay(slots, np.array([4, 4]))
    assert found.hidden[:, 0].tolist() == [4, 24]
    assert attention.told["slot_mapping"][:2].tolist() == [7 * BLOCK, 8 * BLOCK]
    assert steps.likeliest().tolist() == [5, 25]
    assert (found.places.slots.tolist(), found.places.positions.tolist()) == ([0, 2], [5, 5])
    found = steps.replay(slots, np.array([5, 5]))  # nothing is told: all lies there
    assert found.hidden[:, 0].tolist() == [5, 25] and found.places.positions.tolist() == [6, 6]
    assert made.tokens.tokens[:, 6].tolist() == [0, 0, 0, 0]
    steps.likeliest()
    assert made.tokens.tokens[:3, 6].tolist() == [6, 0, 26]
    made.tokens.set_blocks(*blocks((2, 1, 9)))
    found = steps.replay(slots, np.array([6, 6]))  # this is told alone
    assert found.hidden[:, 0].tolist() == [6, 26] and found.places.positions.tolist() == [7, 7]
    assert attention.told["slot_mapping"][:2].tolist() == [7 * BLOCK + 2, 9 * BLOCK + 2]
    steps.likeliest()
    found = steps.replay(slots, np.array([6, 7]))  # one was there before
    assert found.hidden[:, 0].tolist() == [6, 27]
    found = steps.replay(np.array([2]), np.array([6]))
    assert found.hidden[:, 0].tolist() == [26]


def test_what_others_change_is_not_changed_back() -> None:
    """By a step whose inputs still have the change that it made before."""
    made, attention = parts()
    steps, slots = DecodeSteps(made), np.array([0])
    steps.record(Repeater())
    made.tokens.set_blocks(*blocks((0, 0, 5)))
    steps.replay(slots, np.array([2]))
    made.tokens.set_blocks(*blocks((0, 0, 6)))
    made.tokens.settle()
    steps.forget()
    steps.replay(slots, np.array([3]))
    assert attention.told["block_tables"][0].tolist() == [6, 0, 0, 0]


def test_a_slot_that_others_take_over_has_their_blocks() -> None:
    """Though the step before had the same slots, one place before, and there are more changes than sequences."""
    made, attention = parts()
    steps, slots = DecodeSteps(made), np.array([0])
    steps.record(Repeater())
    made.tokens.set_blocks(*blocks((0, 0, 5)))
    steps.replay(slots, np.array([2]))
    made.tokens.set_blocks(*blocks((0, 0, 6), (0, 1, 7), (0, 2, 8)))
    for position in (3, 4):
        steps.replay(slots, np.array([position]))
        assert attention.told["block_tables"][0].tolist() == [6, 7, 8, 0]
    assert made.tokens.block_tables[3].tolist() == [SPARE] * 4


def test_of_changes_that_no_step_took_the_last_counts() -> None:
    """As when steps between were not recorded, and a slot was given away and taken."""
    made, attention = parts()
    steps = DecodeSteps(made)
    steps.record(Repeater())
    for block in (5, 6, 7):
        made.tokens.set_blocks(*blocks((1, 0, block), (2, 0, block + 10)))
    assert made.tokens.num_due == 2
    steps.replay(np.array([0, 1, 2]), np.array([1, 1, 1]))
    assert attention.told["block_tables"][:3, 0].tolist() == [0, 7, 17]


def test_what_fills_up_a_step_stays_nobodys() -> None:
    made, attention = parts()
    steps = DecodeSteps(made)
    steps.record(Repeater())
    before = made.tokens.tokens[:3].clone()
    for position in range(5, 12):
        steps.replay(np.array([0, 1, 2]), np.full(3, position))
        steps.replay(np.array([1]), np.array([position]))
        assert attention.told["slot_mapping"].shape == (1,)
    steps.record(Repeater())
    assert torch.equal(made.tokens.tokens[:3], before)
    assert attention.told["slot_mapping"].tolist() == [SPARE * BLOCK]


def test_what_a_decode_step_is_told_lies_aligned() -> None:
    for size in (1, 2, 3, 64):
        for told in Inputs.of(size, torch.device("cpu")):
            assert told.is_contiguous() and told.shape[1] >= size
            assert told.stride(0) * told.element_size() % 16 == 0 and told.data_ptr() % 16 == 0


def test_mixed_steps_say_who_computes_what() -> None:
    made, attention = parts()
    steps = MixedSteps(made)
    steps.record(Repeater())
    made.tokens.set_blocks(*blocks((0, 0, 5), (2, 0, 6), (2, 1, 7)))
    hidden = steps.replay(np.array([2, 0]), np.array([1, 2]), np.array([4, 1]))
    assert steps.most == 8
    assert hidden[:, 0].tolist() == [21, 22, 23, 24, 2]
    told = attention.told
    assert told["slot_mapping"].tolist() == [25, 26, 27, 28, 22, *[SPARE * BLOCK] * 3]
    assert told["query_starts"].tolist() == [0, 4, 5, 5]
    assert told["context_lens"].tolist() == [5, 3, 0]
    assert told["block_tables"][:2].tolist() == [[6, 7, 0, 0], [5, 0, 0, 0]]


def test_what_is_said_lies_apart_and_aligned() -> None:
    for num_tokens, num_seqs in ((16, 3), (13, 5), (1024, 256)):
        layout = Layout.of(num_tokens, num_seqs)
        assert [place.stop - place.start for place in layout] == [*[num_tokens] * 2, *[num_seqs] * 2, num_seqs + 1]
        assert all(place.start % 4 == 0 for place in layout)
        assert all(one.stop <= other.start for one, other in pairwise(layout))
        assert layout.length == layout.query_starts.stop
