"""Moves sequences between the queue and the slots: lets in, sends back.

Law: whoever is let in finds blocks for all its tokens, leaves to those that run the blocks they lack and at least one
each, and gets at least one token in this step. Whoever is alone always fits. Nobody is let in when those that run were
short of blocks.
"""

import numpy as np

from quire.core.config import Policy
from quire.core.step import Admission
from quire.scheduling.budget import Budget
from quire.scheduling.kv_cache_manager import Allocation, KVCacheManager
from quire.scheduling.prefix_cache import Match, common_prefix
from quire.scheduling.queue import WaitingQueue
from quire.scheduling.running import RunningSequences
from quire.scheduling.sequence import Sequence
from quire.scheduling.slots import SequenceSlots

UNLIMITED = 2**31 - 1


class Admitter:
    """Who runs. Owned by the Scheduler; call ``make_room``, then ``admit``, once a step.

    ``max_chunk`` is the most tokens a prompt computes in a step; None for prompts that are computed in one step, or
    not at all.
    """

    def __init__(
        self,
        *,
        kv: KVCacheManager,
        slots: SequenceSlots,
        running: RunningSequences,
        queue: WaitingQueue,
        policy: Policy,
        max_num_running: int,
        budget: Budget,
        max_chunk: int | None,
    ) -> None:
        self._kv = kv
        self._slots = slots
        self._running = running
        self._queue = queue
        self._has_priorities = policy == "priority"
        self._max_num_running = max_num_running
        self._budget = budget
        self._max_chunk = max_chunk
        self._sent_back: list[Sequence] = []
        self._stuck_at = -1  # generation of the KV in which the next in the queue did not fit
        self.copies: list[tuple[int, int, int]] = []
        """(from block, to block, tokens) of those let in by the last ``admit``."""
        self.alone: Sequence | None = None
        """A prompt above the budget that the last ``admit`` let in: nothing else is computed in this step."""
        self.num_preemptions = 0
        self.prefix_queries = 0
        self.prefix_hits = 0

    def notice_arrival(self) -> None:
        """Someone joined the queue, and may be next."""
        self._stuck_at = -1

    def make_room(self) -> np.ndarray:
        """Send back the most junior until there are blocks for the others.

        Returns [n] slots that lack blocks, once for each block.
        """
        self._sent_back.clear()
        short = self._slots.short_of_blocks()
        while short.size > self._kv.num_available:
            assert len(self._running) > 1, "a sequence does not fit the KV cache alone"
            self._send_back(self._running.order[-1])
            short = self._slots.short_of_blocks()
        return short

    def with_soon_short(self, short: np.ndarray) -> np.ndarray:
        """``short`` [n], and the slots that soon lack a block too, if there are plenty.

        So that most steps change no block table: whoever lacks a block brings the next ones' with it.
        """
        soon = self._slots.soon_short_of_blocks()
        has_plenty = soon.size + len(self._running) <= self._kv.num_available
        return soon if has_plenty else short

    def send_all_back(self) -> None:
        """Preempt all that run, so that nobody holds a block."""
        while len(self._running):
            self._send_back(self._running.order[-1])
        self.notice_arrival()

    def admit(self) -> list[Admission]:
        """Let in as many as tokens, slots and blocks allow; under the priority policy, in place of lesser ones."""
        self.copies, self.alone = [], None
        admissions: list[Admission] = []
        if not self._may_admit():
            return admissions
        left = self._tokens_left()
        while not self._queue.is_empty and self.alone is None:
            sequence = self._queue.next()
            leader = self._leader_of(sequence)
            if leader is not None:
                self._queue.follow(sequence, leader)
                continue
            room = self._tokens_left(sequence.key) if left <= 0 and self._has_priorities else left
            if room <= 0:
                break
            num_sent_back = len(self._sent_back)
            allocation = self._fit(sequence, room, is_first=not admissions)
            if len(self._sent_back) > num_sent_back:
                left = self._tokens_left()
            if allocation is None:
                break
            self._queue.take(sequence)
            admissions.append(self._running.start(sequence, allocation))
            if allocation.copy:
                self.copies.append(allocation.copy)
            self._count(sequence, allocation)
            left -= self._wanted(sequence)
        return admissions

    def _may_admit(self) -> bool:
        """A cheap look that spares a crowded engine the search through the cache in every step."""
        if self._queue.is_empty or self._sent_back:
            return False
        if not len(self._running):
            return True
        if self._stuck_at == self._kv.generation:
            return False
        return len(self._running) < self._max_num_running or self._has_priorities

    def _leader_of(self, sequence: Sequence) -> Sequence | None:
        """Who is just computing KV that the sequence could share, if waiting for it costs no more than it saves.

        Prompts are computed one after another, so whoever waits for a senior one is not held up; unless chunks are
        limited, so that prompts go on side by side.
        """
        if not self._kv.has_prefix_cache or not self._running.prefilling:
            return None
        tokens = sequence.tokens[: sequence.max_cached_tokens]
        saved, leader = max(
            (
                (common_prefix(other.tokens, tokens), other)
                for other in self._running.prefilling
                if other.namespace == sequence.namespace and other.key < sequence.key
            ),
            key=lambda pair: pair[0],
            default=(0, None),
        )
        if leader is None or saved < self._kv.block_size:
            return None
        saved -= self._kv.num_matching(self._kv.lookup(sequence.namespace, tokens))
        if saved < self._kv.block_size:
            return None
        is_side_by_side = self._max_chunk is not None and self._max_chunk < UNLIMITED
        return None if is_side_by_side and self._pending(leader) > saved else leader

    def _fit(self, sequence: Sequence, room: int, is_first: bool) -> Allocation | None:
        """Blocks for a sequence, if need be those of lesser priority; None if it has to wait."""
        while True:
            match = self._kv.lookup(sequence.namespace, sequence.tokens[: sequence.max_cached_tokens])
            if self._max_chunk is None:
                pending = sequence.tokens.size - match.blocks.size * self._kv.block_size
                is_alone = pending > self._budget.most and is_first
                if pending > room and not is_alone:
                    return None
                self.alone = sequence if is_alone else None
            if len(self._running) < self._max_num_running:
                num_spare = self._num_spare(self._running.order)
                allocation = self._kv.allocate(match, sequence.tokens.size, num_spare)
                if allocation is not None:
                    return allocation
            if not self._has_priorities or not self._can_displace(sequence, match):
                self._stuck_at = self._kv.generation
                self.alone = None
                return None
            self._send_back(self._running.order[-1])

    def _can_displace(self, sequence: Sequence, match: Match) -> bool:
        """Whether it may fit in the place of those of lesser priority, were they all sent back."""
        order, priority = self._running.order, sequence.request.priority
        lesser = [other for other in order if other.request.priority > priority]
        num_freed = sum(self._slots.blocks_of(other.slot).size for other in lesser)
        num_wanted = -(-sequence.tokens.size // self._kv.block_size) - match.blocks.size
        num_spare = self._num_spare([other for other in order if other.request.priority <= priority])
        return bool(lesser) and num_wanted + num_spare <= self._kv.num_available + num_freed

    def _num_spare(self, running: list[Sequence]) -> int:
        """Blocks to be left to these: what each lacks now, or may lack after this step."""
        rows = np.array([sequence.slot for sequence in running], np.int64)
        return int(np.maximum(self._slots.num_lacking(rows), 1).sum())

    def _send_back(self, sequence: Sequence) -> None:
        """Preempt: the sequence waits again, with all it has; its KV stays as long as nobody needs the blocks."""
        sequence.tokens = self._slots.tokens_of(sequence.slot).copy()
        self._running.stop(sequence, is_kv_good=True)
        self._queue.add(sequence)
        self._sent_back.append(sequence)
        self.num_preemptions += 1

    def _tokens_left(self, key: tuple[int, int] | None = None) -> int:
        """The budget less what all that run want; with ``key``, those junior to it make do with one token."""
        prefilling = self._running.prefilling
        wanted = sum(self._wanted(other) if key is None or other.key < key else 1 for other in prefilling)
        num_decoding = len(self._running) - len(prefilling)
        return self._budget.tokens(num_decoding) - num_decoding - wanted

    def _pending(self, sequence: Sequence) -> int:
        return int(self._slots.planned_tokens[sequence.slot] - self._slots.planned_computed[sequence.slot])

    def _wanted(self, sequence: Sequence) -> int:
        return min(self._pending(sequence), self._max_chunk or UNLIMITED)

    def _count(self, sequence: Sequence, allocation: Allocation) -> None:
        if not sequence.is_started and self._kv.has_prefix_cache and sequence.max_cached_tokens:
            self.prefix_queries += sequence.tokens.size
            self.prefix_hits += allocation.num_computed_tokens
