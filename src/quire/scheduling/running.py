"""The sequences that have a slot, in order of seniority, and what the worker has yet to be told of them.

Law: ``order`` is sorted by ``Sequence.key``; each of it holds a slot, and blocks for all its tokens but those that the
last step brought.
What is told once (released slots, changed block tables) is collected here between one step and the next; what is to
be told of a slot is forgotten when the slot is released.
"""

from bisect import bisect_left, insort
from operator import attrgetter

import numpy as np

from quire.core.step import Admission
from quire.scheduling.kv_cache_manager import Allocation, KVCacheManager
from quire.scheduling.sequence import Sequence
from quire.scheduling.slots import SequenceSlots

_KEY = attrgetter("key")


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


_NO_UPDATES = _frozen(np.empty((0, 3), np.int64))
_NO_SLOTS = _frozen(np.empty(0, np.int64))


class RunningSequences:
    """Gives sequences their slots and blocks, and takes them back. Owned by the Scheduler."""

    def __init__(self, slots: SequenceSlots, kv: KVCacheManager) -> None:
        self._slots = slots
        self._kv = kv
        self.order: list[Sequence] = []
        self.prefilling: dict[Sequence, None] = {}
        """Those that have sampled nothing since they were let in."""
        self._rows: np.ndarray | None = None
        self._handles: list[int] = []
        self._released: list[int] = []
        self._updates: dict[int, list[np.ndarray]] = {}  # by slot, [n, 3] int64 each

    def __len__(self) -> int:
        return len(self.order)

    @property
    def rows(self) -> np.ndarray:
        """[S] int64, the slots in ``order``; never written, so steps may share it."""
        if self._rows is None:
            self._rows = _frozen(np.array([sequence.slot for sequence in self.order], np.int64))
            self._handles = [sequence.handle for sequence in self.order]
        return self._rows

    def handles_of(self, rows: np.ndarray) -> list[int] | None:
        """[S], if ``rows`` is what ``self.rows`` is still; never written either."""
        return self._handles if rows is self._rows else None

    def start(self, sequence: Sequence, allocation: Allocation) -> Admission:
        """Give a sequence a slot with these blocks."""
        request = sequence.request
        slot = sequence.slot = self._slots.take(
            handle=sequence.handle,
            tokens=sequence.tokens,
            num_computed=allocation.num_computed_tokens,
            blocks=allocation.blocks,
            prompt_len=request.prompt.size,
            min_tokens=request.params.min_tokens,
            max_total=request.max_total_tokens,
            stop_ids=request.stop_token_ids,
        )
        sequence.copy_source = allocation.copy[0] if allocation.copy else -1
        self.prefilling[sequence] = None
        self._note(slot, np.arange(allocation.blocks.size), allocation.blocks)
        insort(self.order, sequence, key=_KEY)
        self._rows = None
        return Admission(
            slot=slot,
            handle=sequence.handle,
            tokens=sequence.tokens,
            prompt_len=request.prompt.size,
            params=request.params,
            seed=sequence.seed,
            stop_token_ids=request.stop_token_ids,
            bad_word_ids=request.bad_word_ids,
            num_computed_tokens=allocation.num_computed_tokens,
            grammar=request.grammar,
            reasoning=request.reasoning,
        )

    def settle(self, sequence: Sequence) -> None:
        """The step that let the sequence in is done: so is its copy."""
        if sequence.copy_source >= 0:
            self._kv.end_copy(sequence.copy_source)
            sequence.copy_source = -1

    def share_prompt(self, sequence: Sequence) -> None:
        """All it knew when it was let in is computed: let others find it. Its blocks may change for equal ones."""
        slot = sequence.slot
        del self.prefilling[sequence]
        own = self._slots.blocks_of(slot)[: -(-sequence.tokens.size // self._kv.block_size)]
        kept = self._kv.share(sequence.namespace, sequence.tokens, own.copy())
        changed = np.flatnonzero(kept != own[: kept.size])
        if changed.size:
            own[changed] = kept[changed]
            self._note(slot, changed, kept[changed])

    def stop(self, sequence: Sequence, is_kv_good: bool) -> None:
        """Take slot and blocks back; what is computed stays findable, if it is known to be good.

        Its copy may not have been done: then nothing of the copy is kept, since the tree still has the source, which
        is held until the end.
        """
        slot, slots = sequence.slot, self._slots
        num_good = int(slots.num_computed[slot]) if is_kv_good else 0
        self._kv.free(sequence.namespace, slots.tokens[slot, :num_good], slots.blocks_of(slot).copy())
        self.settle(sequence)
        slots.release(slot)
        sequence.slot = -1
        self.prefilling.pop(sequence, None)
        self._updates.pop(slot, None)
        self._released.append(slot)
        del self.order[bisect_left(self.order, sequence.key, key=_KEY)]
        self._rows = None

    def take_released(self) -> np.ndarray:
        """[n] int64 slots released since the last call."""
        if not self._released:
            return _NO_SLOTS
        released = np.array(self._released, np.int64)
        self._released.clear()
        return released

    def take_updates(self, grown: np.ndarray) -> np.ndarray:
        """[n, 3] int64 changes of block tables since the last call, and ``grown`` [m] slots given a block each."""
        if grown.size:
            new = self._slots.grow(grown, self._kv.take(grown.size))
            if not self._updates:
                return new
            self._updates[-1] = [new]
        if not self._updates:
            return _NO_UPDATES
        updates = np.concatenate([piece for pieces in self._updates.values() for piece in pieces])
        self._updates.clear()
        return updates

    def count_holders(self) -> np.ndarray:
        """[num_blocks] int32: how many sequences and copies hold each block, from scratch; verifies the law."""
        slots = self._slots
        counts = np.zeros(self._kv.pool.num_blocks, np.int32)
        assert [s.key for s in self.order] == sorted(s.key for s in self.order), "running sequences are out of order"
        for sequence in self.order:
            blocks = slots.blocks_of(sequence.slot)
            assert slots.handle[sequence.slot] == sequence.handle, "a slot has another's handle"
            assert np.unique(blocks).size == blocks.size, "a block is twice in one block table"
            assert slots.num_computed[sequence.slot] <= blocks.size * slots.block_size, "a sequence lacks blocks"
            if sequence in self.prefilling:
                assert sequence.tokens.size <= blocks.size * slots.block_size, "a sequence lacks blocks of its prompt"
            counts[blocks] += 1
            if sequence.copy_source >= 0:
                counts[sequence.copy_source] += 1
        assert int((slots.handle >= 0).sum()) == len(self.order), "a slot is lost"
        return counts

    def _note(self, slot: int, indexes: np.ndarray, blocks: np.ndarray) -> None:
        changes = np.array((np.full_like(indexes, slot), indexes, blocks)).T
        self._updates.setdefault(slot, []).append(changes)
