"""Decides what each step computes.

One law: a sequence has ``num_tokens`` it should have computed and ``num_computed`` it has; each step hands out a
budget of tokens so that the second catches up with the first. Prompts, chunks of prompts, decoding, forced tokens,
cached prefixes and resumption after a preemption are arithmetic on these two.

Those that run come first, and the most senior of them always goes on, so all end. A decision is answered by
``update``, the oldest first; the next may be made before that, on the plan that every sequence goes on as far as it
may, and a row of one that did not is dropped. ``add``, ``abort`` and ``fail`` may come at any moment. Nothing counts as
computed, or can be found by others, before ``update`` says so.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from quire.core.config import Policy
from quire.core.request import Request
from quire.core.step import (
    EngineStats,
    Finished,
    FinishReason,
    ModelOutput,
    PromptLogprobs,
    SchedulerOutput,
    Started,
    StepOutput,
)
from quire.scheduling.admission import UNLIMITED, Admitter
from quire.scheduling.budget import Budget, share_budget
from quire.scheduling.kv_cache_manager import KVCacheManager
from quire.scheduling.queue import WaitingQueue
from quire.scheduling.running import RunningSequences
from quire.scheduling.sequence import Sequence
from quire.scheduling.slots import SequenceSlots, any_of
from quire.scheduling.step_rows import StepRows

_NOT_FINITE = "the model's logits were not finite; the weights may be damaged or their dtype too narrow"


class InFlight(NamedTuple):
    """A decision that is not answered yet."""

    decision: SchedulerOutput
    lives: np.ndarray
    """[S], of its slots: who was in them."""
    num_releases: int
    """When it was made: if slots were released since, some of its rows may be nobody's."""


class Scheduler:
    """One engine's queue, slots and KV accounting. Owned by the Engine; lives in the engine process, on rank 0.

    A sequence of ``max_model_len`` must fit ``num_blocks``. ``clock`` is time.monotonic, or a test's.
    """

    def __init__(
        self,
        *,
        num_blocks: int,
        block_size: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        policy: Policy = "fcfs",
        enable_prefix_caching: bool = True,
        enable_chunked_prefill: bool = True,
        max_num_interleaved_tokens: int = 0,
        long_prefill_token_threshold: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert num_blocks * block_size >= max_model_len, "a sequence of max_model_len does not fit the KV cache"
        self._policy = policy
        self._clock = clock
        self._kv = KVCacheManager(num_blocks, block_size, enable_prefix_caching)
        self._slots = SequenceSlots(max_num_seqs, max_model_len, block_size)
        self._running = RunningSequences(self._slots, self._kv)
        self._queue = WaitingQueue(policy, self._num_cached, lambda: self._kv.generation)
        is_chunked = enable_chunked_prefill  # otherwise the Admitter sees to the budget
        self._max_chunk = long_prefill_token_threshold if long_prefill_token_threshold and is_chunked else UNLIMITED
        beside = max_num_interleaved_tokens if max_num_interleaved_tokens and is_chunked else max_num_batched_tokens
        self._budget = Budget(max_num_batched_tokens if is_chunked else UNLIMITED, beside if is_chunked else UNLIMITED)
        self._admitter = Admitter(
            kv=self._kv,
            slots=self._slots,
            running=self._running,
            queue=self._queue,
            policy=policy,
            max_num_running=min(max_num_seqs, max_num_batched_tokens),
            budget=Budget(max_num_batched_tokens, beside),
            max_chunk=self._max_chunk if is_chunked else None,
        )
        self._sequences: dict[int, Sequence] = {}  # by handle: all that wait or run
        self._num_added = 0
        self._in_flight: deque[InFlight] = deque()
        self._has_runs = False  # some that decode may have more than one token to compute
        self._scheduled_s = 0.0
        self._num_prompt_tokens = 0
        self._num_generation_tokens = 0
        self._ones = np.ones(max_num_seqs, np.int64)
        self._trues = np.ones(max_num_seqs, bool)
        self._no_copies = np.empty((0, 3), np.int32)
        for shared in (self._ones, self._trues, self._no_copies):  # between steps: none may write them
            shared.setflags(write=False)

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    @property
    def num_waiting_tokens(self) -> int:
        """Tokens of all sequences that wait: their prompts, and what was generated before a preemption."""
        return self._queue.num_tokens

    @property
    def num_free_blocks(self) -> int:
        return self._kv.pool.num_free

    @property
    def num_held_blocks(self) -> int:
        return self._kv.pool.num_held

    @property
    def num_cached_blocks(self) -> int:
        return self._kv.pool.num_cached

    def add(self, request: Request) -> None:
        """Put the ``params.n`` continuations of a request in the queue, as handles ``request.handle + i``.

        All but the first wait for the first one's prompt, to share its KV.
        """
        assert 0 < request.prompt.size < request.max_total_tokens <= self._slots.tokens.shape[1], "not for this engine"
        shares = self._kv.has_prefix_cache and request.params.prompt_logprobs is None
        rank = request.priority if self._policy == "priority" else 0
        leader: Sequence | None = None
        for index in range(request.params.n):
            sequence = Sequence(request, index, (rank, self._num_added))
            sequence.leader = leader
            leader = leader or (sequence if shares else None)
            self._num_added += 1
            self._sequences[sequence.handle] = sequence
            self._queue.add(sequence)
        self._admitter.notice_arrival()

    def abort(self, handles: Iterable[int]) -> list[Finished]:
        """End these sequences now; handles that are unknown or have ended are passed over."""
        return self._end_all(handles, FinishReason.ABORT, None)

    def fail(self, error: str) -> list[Finished]:
        """End all sequences of the decisions in flight, which failed: what they left of their KV is not kept."""
        handles = [handle for flight in self._in_flight for handle in self._handles(flight)]
        self._in_flight.clear()
        return self._end_all(handles, FinishReason.ERROR, error)

    def schedule(self) -> SchedulerOutput | None:
        """Decide the next step; None when there is nothing to compute, or nothing before an answer comes."""
        running, slots = self._running, self._slots
        short = self._admitter.make_room()
        before = running.rows
        admitted = self._admitter.admit()
        rows = running.rows
        if not rows.size:
            return None
        if rows is not before:  # some were let in, or sent back
            self._scheduled_s = self._clock()
            short = slots.short_of_blocks()
        if short.size:
            short = self._admitter.with_soon_short(short)
        if self._admitter.alone is not None:
            rows = np.array([self._admitter.alone.slot], np.int64)
        elif self._in_flight:
            rows = slots.lasting(rows)
            if not rows.size:
                return None
        starts = slots.planned_computed[rows]
        counts, samples = self._ones[: rows.size], self._trues[: rows.size]
        is_decode = not running.prefilling and not self._has_runs
        if not is_decode:
            pending = slots.planned_tokens[rows] - starts
            num_decoding = max(0, rows.size - len(running.prefilling))  # some prompts may be on their way to their end
            counts = share_budget(pending, self._budget.tokens(num_decoding), self._max_chunk)
            samples = counts == pending
            is_decode = bool(samples.all()) and int(counts.max()) == 1
            if self._admitter.alone is None:
                self._has_runs = self._has_runs and not samples.all()
        copies = self._admitter.copies
        decision = SchedulerOutput(
            released=running.take_released(),
            admitted=admitted,
            block_updates=running.take_updates(short),
            block_copies=np.array(copies, np.int32) if copies else self._no_copies,
            slots=rows,
            starts=starts,
            counts=counts,
            samples=samples,
            is_decode=is_decode,
        )
        if is_decode and rows is running.rows:
            slots.plan_all()
        else:
            slots.plan(rows, starts, counts, samples)
        self._in_flight.append(InFlight(decision, slots.lives[rows], slots.num_releases))
        return decision

    def update(self, decision: SchedulerOutput, result: ModelOutput, now_s: float) -> StepOutput:
        """Take in what the step of the oldest decision in flight produced, and say what clients must know of it."""
        flight = self._in_flight.popleft()
        assert flight.decision is decision, "not the oldest decision"
        slots, rows, tokens = self._slots, decision.slots, result.token_ids
        is_thinned = flight.num_releases != slots.num_releases
        if is_thinned:
            rows = slots.still(rows, flight.lives)
        started = self._settle(decision) if decision.admitted else []
        slots.num_computed[rows] = decision.starts + decision.counts
        if self._running.prefilling:
            self._num_prompt_tokens += slots.num_prompt_tokens(rows, decision.starts, decision.counts)
        prompt_logprobs = self._prompt_logprobs(result) if result.prompt_logprobs else {}
        if tokens.size < rows.size:
            rows = rows[decision.samples]
        given, finished = StepRows(slots.handle[rows], tokens, result.logprobs), []
        ends, stops = slots.append(rows, tokens)
        if result.forced or result.concluded:
            stops = self._append_runs(given, rows, result, ends, stops)
        if self._running.prefilling:
            self._share_prompts()
        if is_thinned or any_of(ends):
            finished = self._finish(given, ends, stops, result.failures)
        handles = self._running.handles_of(rows)
        if finished or given.runs or is_thinned:
            given.unfold()
            handles = None
        self._num_generation_tokens += given.tokens.size
        return StepOutput(
            handles=given.handles.tolist() if handles is None else handles,
            token_ids=given.tokens.tolist(),
            time_s=now_s,
            started=started,
            finished=finished,
            logprobs=given.logprobs,
            prompt_logprobs=prompt_logprobs,
            stats=self.stats(decision.num_tokens),
        )

    def stats(self, step_tokens: int = 0) -> EngineStats:
        """The numbers of this moment."""
        pool, admitter = self._kv.pool, self._admitter
        return EngineStats(
            num_running=len(self._running),
            num_waiting=len(self._queue),
            kv_usage=pool.num_held / pool.num_blocks,
            num_preemptions=admitter.num_preemptions,
            num_prompt_tokens=self._num_prompt_tokens,
            num_generation_tokens=self._num_generation_tokens,
            prefix_queries=admitter.prefix_queries,
            prefix_hits=admitter.prefix_hits,
            step_tokens=step_tokens,
        )

    def reset_prefix_cache(self, preempt: bool = False) -> None:
        """Forget every prefix that no running sequence holds.

        ``preempt``: with nothing in flight, send all that run back to the queue first: no block is held, no token lost.
        """
        if preempt:
            assert not any(map(self._handles, self._in_flight)), "a step is being computed"
            self._admitter.send_all_back()
        self._kv.reset()

    def check(self) -> None:
        """Verify every invariant, counting from scratch; raises AssertionError."""
        self._kv.check(self._running.count_holders())
        self._queue.check([sequence for sequence in self._sequences.values() if sequence.slot < 0])
        assert len(self._running) + len(self._queue) == len(self._sequences), "a sequence neither waits nor runs"

    def _handles(self, flight: InFlight) -> list[int]:
        """The sequences of a decision that have not left their slots since."""
        handles: list[int] = self._slots.handle[self._slots.still(flight.decision.slots, flight.lives)].tolist()
        return [handle for handle in handles if handle >= 0]

    def _num_cached(self, sequence: Sequence) -> int:
        known = sequence.tokens[: sequence.max_cached_tokens]
        return self._kv.num_matching(self._kv.lookup(sequence.namespace, known))

    def _settle(self, decision: SchedulerOutput) -> list[Started]:
        """Note that those let in by this step have begun."""
        started = []
        for admission in decision.admitted:
            sequence = self._sequences.get(admission.handle)
            if sequence is None:
                continue
            self._running.settle(sequence)
            if not sequence.is_started:
                sequence.is_started = True
                started.append(Started(sequence.handle, admission.num_computed_tokens, self._scheduled_s))
        return started

    def _share_prompts(self) -> None:
        """Let others find what is computed to its end, and the siblings go on that waited for it."""
        slots = self._slots
        for sequence in list(self._running.prefilling):
            slot, num_known = sequence.slot, sequence.tokens.size
            if slots.num_computed[slot] >= num_known and slots.tokens[slot, num_known] >= 0:
                self._running.share_prompt(sequence)
                self._queue.release_followers(sequence, is_prompt_computed=True)
                self._admitter.notice_arrival()

    def _append_runs(
        self, given: StepRows, rows: np.ndarray, result: ModelOutput, ends: np.ndarray, stops: np.ndarray | None
    ) -> np.ndarray:
        """Add what was forced behind the rows' tokens, in ``ends`` too; returns which rows end by a stop id."""
        assert not result.forced or self._budget.most < UNLIMITED, "runs are computed in chunks"
        stops = np.zeros_like(ends) if stops is None else stops
        for row, run in result.forced.items():
            if not ends[row] and given.handles[row] >= 0:
                given.runs[row], ends[row], stops[row] = self._slots.append_run(int(rows[row]), run)
                self._has_runs = True
        for row in result.concluded:
            if row not in result.forced or given.run_size(row) == result.forced[row].size:
                ends[row] = stops[row] = True
        return stops

    def _finish(
        self, given: StepRows, ends: np.ndarray, stops: np.ndarray | None, failures: dict[int, str]
    ) -> list[Finished]:
        """End the sequences whose row says so. A row of handle -1 is of one that has ended already."""
        finished = []
        for row in np.flatnonzero(ends & (given.handles >= 0)).tolist():
            sequence, token = self._sequences[int(given.handles[row])], given.last_token(row)
            if token < 0:
                reason = failures.get(row, _NOT_FINITE)
                finished.append(Finished(sequence.handle, FinishReason.ERROR, None, reason))
            elif stops is not None and stops[row]:
                stop_id = token if token in sequence.request.stop_token_ids else None  # what concludes may be none
                finished.append(Finished(sequence.handle, FinishReason.STOP, stop_id))
            else:
                finished.append(Finished(sequence.handle, FinishReason.LENGTH))
            self._end(sequence, is_kv_good=token >= 0)
        return finished

    def _prompt_logprobs(self, result: ModelOutput) -> dict[int, PromptLogprobs]:
        """From slot to handle, noting how far each has come."""
        delivered = {}
        for slot, piece in result.prompt_logprobs.items():
            sequence = self._sequences.get(int(self._slots.handle[slot]))
            if sequence is not None:
                done = piece.first - 1 + len(piece.entries)
                sequence.num_prompt_logprobs = max(sequence.num_prompt_logprobs, done)
                delivered[sequence.handle] = piece
        return delivered

    def _end_all(self, handles: Iterable[int], reason: FinishReason, error: str | None) -> list[Finished]:
        finished = []
        for handle in handles:
            sequence = self._sequences.get(handle)
            if sequence is not None:
                self._end(sequence, is_kv_good=error is None)
                finished.append(Finished(handle, reason, None, error))
        return finished

    def _end(self, sequence: Sequence, is_kv_good: bool) -> None:
        del self._sequences[sequence.handle]
        if sequence.slot >= 0:
            self._running.stop(sequence, is_kv_good)
        else:
            self._queue.remove(sequence)
        if sequence.followers:
            self._queue.release_followers(sequence, is_prompt_computed=False)
            self._admitter.notice_arrival()
