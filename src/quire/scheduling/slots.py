"""Running sequences as arrays by slot: what the steady path reads and writes.

A sequence takes a slot when it is let in and keeps it until it ends or is preempted. Every method that a steady
decode step calls is a fixed number of array operations, whatever the number of sequences.

What is known, ``num_tokens`` and ``num_computed``, is what answered steps brought. What is planned is what will be once
the steps in flight are answered, if no sequence ends by what it samples there; with none in flight the two are equal.
Decisions are made by what is planned.

Laws: ``num_computed[slot] <= num_tokens[slot] <= max_total[slot]``; a free slot has handle -1 and plans no tokens;
``block_table[slot, : room[slot] // block_size]`` are the slot's blocks. Rows of freed slots keep other stale numbers
until they are taken again. The last slot, ``nowhere``, is nobody's: what a step brings for a sequence that has left its
slot goes there.

What is asked of all that run is asked of all slots: an operation over a whole array costs less than picking those that
run out of it. Slots, and what is counted by slot, are int64: numpy indexes by these several times as fast as by others,
which it converts.
"""

from collections.abc import Sequence as Items

import numpy as np

_BOUNDLESS = 2**62

any_of = np.logical_or.reduce
"""Of a mask [n]. ``any`` is the same by way of Python, as ``flatnonzero`` is of ``nonzero``: each step would pay."""


class SequenceSlots:
    """The arrays, and which slots are free. Owned by the Scheduler. Big arrays are touched as they are used."""

    def __init__(self, num_slots: int, max_model_len: int, block_size: int) -> None:
        self.block_size = block_size
        self.nowhere = num_slots
        self._free = list(range(num_slots - 1, -1, -1))
        num_slots += 1
        self.handle = np.full(num_slots, -1, np.int64)
        self.num_tokens = np.zeros(num_slots, np.int64)
        self.num_computed = np.zeros(num_slots, np.int64)
        self.planned_tokens = np.zeros(num_slots, np.int64)
        self.planned_computed = np.zeros(num_slots, np.int64)
        self._is_taken = np.zeros(num_slots, np.int64)
        self.lives = np.zeros(num_slots, np.int64)
        """How often the slot was released."""
        self.num_releases = 0
        self.prompt_len = np.zeros(num_slots, np.int64)
        self.max_total = np.ones(num_slots, np.int64)
        self.min_total = np.zeros(num_slots, np.int64)
        self.room = np.full(num_slots, _BOUNDLESS, np.int64)
        """By slot: how many tokens its blocks hold; a free one lacks none."""
        self.stop_ids = np.full((0, num_slots), -1, np.int32)  # a row for each of the ids a slot may have
        self.tokens = np.zeros((num_slots, max_model_len), np.int32)
        self._places = self.tokens.reshape(-1)  # of all slots, one behind another
        self._first_place = np.arange(num_slots) * max_model_len
        self.block_table = np.zeros((num_slots, -(-max_model_len // block_size)), np.int32)
        self._has_runs = False  # some slot may lack more than one block

    def take(
        self,
        *,
        handle: int,
        tokens: np.ndarray,
        num_computed: int,
        blocks: np.ndarray,
        prompt_len: int,
        min_tokens: int,
        max_total: int,
        stop_ids: Items[int],
    ) -> int:
        """Fill a free slot and return it."""
        slot = self._free.pop()
        self.handle[slot] = handle
        self._is_taken[slot] = 1
        self.num_tokens[slot] = self.planned_tokens[slot] = tokens.size
        self.num_computed[slot] = self.planned_computed[slot] = num_computed
        self.prompt_len[slot] = prompt_len
        self.max_total[slot] = max_total
        self.min_total[slot] = prompt_len + min_tokens
        self.room[slot] = blocks.size * self.block_size
        self.tokens[slot, : tokens.size] = tokens
        self.block_table[slot, : blocks.size] = blocks
        missing = len(stop_ids) - self.stop_ids.shape[0]
        if missing > 0:
            self.stop_ids = np.pad(self.stop_ids, ((0, missing), (0, 0)), constant_values=-1)
        self.stop_ids[:, slot] = -1
        self.stop_ids[: len(stop_ids), slot] = stop_ids
        return slot

    def release(self, slot: int) -> None:
        """Make a slot free."""
        self.handle[slot] = -1
        self._is_taken[slot] = self.planned_tokens[slot] = 0
        self.room[slot] = _BOUNDLESS
        self.lives[slot] += 1
        self.num_releases += 1
        self._free.append(slot)

    def plan(self, slots: np.ndarray, starts: np.ndarray, counts: np.ndarray, samples: np.ndarray) -> None:
        """A step is on its way: of ``slots`` [S] tokens ``starts : starts + counts``, and one more where it samples."""
        self.planned_computed[slots] = starts + counts
        self.planned_tokens[slots] += samples

    def plan_all(self) -> None:
        """A step is on its way in which each sequence computes one token and samples another."""
        self.planned_computed += self._is_taken
        self.planned_tokens += self._is_taken

    def lasting(self, slots: np.ndarray) -> np.ndarray:
        """Those of ``slots`` [S] that will not be at their full length once all in flight is answered.

        The same array where all are.
        """
        is_full = self.planned_tokens >= self.max_total
        return slots[~is_full[slots]] if any_of(is_full) else slots

    def still(self, slots: np.ndarray, lives: np.ndarray) -> np.ndarray:
        """``slots`` [S], but ``nowhere`` for those that were released since their ``lives`` [S] were taken."""
        self.num_tokens[self.nowhere] = 0
        still: np.ndarray = np.where(self.lives[slots] == lives, slots, self.nowhere)
        return still

    def tokens_of(self, slot: int) -> np.ndarray:
        """[num_tokens] int32, a view."""
        return self.tokens[slot, : self.num_tokens[slot]]

    def blocks_of(self, slot: int) -> np.ndarray:
        """[num_blocks] int32, a view."""
        return self.block_table[slot, : self.room[slot] // self.block_size]

    def short_of_blocks(self) -> np.ndarray:
        """The slots whose planned tokens no longer fit their blocks, rising, once for each block they lack."""
        (short,) = (self.planned_tokens > self.room).nonzero()
        return np.repeat(short, self.num_lacking(short)) if self._has_runs and short.size else short

    def soon_short_of_blocks(self) -> np.ndarray:
        """Those, and the slots that will lack a block before they have filled half of one more."""
        if self._has_runs:
            return self.short_of_blocks()
        soon = np.minimum(self.planned_tokens + self.block_size // 2, self.max_total)
        return np.flatnonzero(soon > self.room)

    def num_lacking(self, slots: np.ndarray) -> np.ndarray:
        """[S]: how many blocks more the planned tokens of ``slots`` [S] take."""
        lacking: np.ndarray = -(-(self.planned_tokens[slots] - self.room[slots]) // self.block_size)
        return lacking

    def grow(self, slots: np.ndarray, blocks: np.ndarray) -> np.ndarray:
        """Give all slots that are short of blocks theirs. Returns [n, 3] int64 (slot, index, block)."""
        index = self.room[slots] // self.block_size
        if self._has_runs:  # a slot's namings are side by side
            firsts = np.flatnonzero(np.diff(slots, prepend=-1))
            index += np.arange(slots.size) - np.repeat(firsts, np.diff(firsts, append=slots.size))
            self._has_runs = False
        self.block_table[slots, index] = blocks
        self.room[slots] = (index + 1) * self.block_size  # of equal slots, the last one's, which is the greatest
        return np.array((slots, index, blocks)).T

    def num_prompt_tokens(self, slots: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> int:
        """How many of the tokens ``starts : starts + counts``, each [S], belong to prompts."""
        lengths = self.prompt_len[slots]
        return int((np.minimum(starts + counts, lengths) - np.minimum(starts, lengths)).sum())

    def append(self, slots: np.ndarray, token_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Add one token to each slot. Returns two masks [R]: sequences that end, and those that do by a stop id.

        A sequence ends at a stop id once it has its min_tokens, at its length, and at a token of -1. The second mask
        is None where none was given a stop id.
        """
        total = self.num_tokens[slots]
        self._places[self._first_place[slots] + total] = token_ids
        total += 1
        self.num_tokens[slots] = total
        ends: np.ndarray = (total >= self.max_total[slots]) | (token_ids < 0)
        stops: np.ndarray = any_of(self.stop_ids.take(slots, axis=1) == token_ids, axis=0)
        if not any_of(stops):
            return ends, None
        stops &= total >= self.min_total[slots]
        ends |= stops
        return ends, stops

    def append_run(self, slot: int, run: np.ndarray) -> tuple[np.ndarray, bool, bool]:
        """Add the tokens ``run`` [k] to a slot that has not ended, as far as it may have them.

        Returns those added, and whether the sequence ends, and does so by a stop id.
        """
        total, most = int(self.num_tokens[slot]), int(self.max_total[slot])
        run = run[: most - total]
        lengths = total + 1 + np.arange(run.size)
        stops = np.isin(run, self.stop_ids[:, slot]) & (lengths >= self.min_total[slot])
        is_stopped = bool(stops.any())
        if is_stopped:
            run = run[: int(stops.argmax()) + 1]
        self._has_runs = True
        self.tokens[slot, total : total + run.size] = run
        self.num_tokens[slot] = total + run.size
        self.planned_tokens[slot] += run.size
        return run, is_stopped or total + run.size >= most, is_stopped
