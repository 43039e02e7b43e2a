"""Whatever comes in whatever order, each sequence ends once, with the tokens it would have had alone."""

from collections import Counter, deque
from types import SimpleNamespace

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from quire.core.step import FinishReason, ModelOutput, SchedulerOutput
from quire.scheduling.scheduler import Scheduler

MAX_MODEL_LEN = 40
PIECES = ([1] * 5, [1] * 5 + [2] * 6, [3, 4, 5], [7] * 9)
"""Prompts are made of these, so that many begin alike."""


class SchedulerMachine(RuleBasedStateMachine):
    """Drives a Scheduler with a FakeWorker and keeps account of every handle."""

    def __init__(self, lab: SimpleNamespace, seen: Counter[str]) -> None:
        super().__init__()
        self.lab = lab
        self.seen = seen
        self.requests: dict[int, tuple[object, int]] = {}
        self.tokens: dict[int, list[int]] = {}
        self.reasons: dict[int, FinishReason] = {}
        self.started: set[int] = set()
        self.next_handle = 1
        self.in_flight: deque[tuple[SchedulerOutput, ModelOutput]] = deque()

    @initialize(
        block_size=st.sampled_from([1, 3, 4, 8]),
        spare=st.integers(0, 6),
        max_num_seqs=st.integers(1, 8),
        budget=st.sampled_from([1, 2, 5, 16, 64]),
        policy=st.sampled_from(["fcfs", "lpm", "priority"]),
        caching=st.sampled_from([True, True, True, False]),
        chunked=st.sampled_from([True, True, False]),
        threshold=st.sampled_from([0, 0, 3]),
        runs=st.booleans(),
        ahead=st.sampled_from([0, 1, 1, 2]),
    )
    def build(self, block_size, spare, max_num_seqs, budget, policy, caching, chunked, threshold, runs, ahead):
        self.has_runs = runs and chunked
        self.ahead = 0 if self.has_runs else ahead
        self.num_blocks = -(-MAX_MODEL_LEN // block_size) + spare
        self.budget, self.chunked, self.policy, self.max_num_seqs = budget, chunked, policy, max_num_seqs
        self.scheduler = Scheduler(
            num_blocks=self.num_blocks,
            block_size=block_size,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=budget,
            max_model_len=MAX_MODEL_LEN,
            policy=policy,
            enable_prefix_caching=caching,
            enable_chunked_prefill=chunked,
            long_prefill_token_threshold=threshold,
            clock=lambda: 0.0,
        )
        self.worker = self.lab.FakeWorker(
            self.num_blocks, block_size, lambda h: self.requests[h][0].cache_salt, has_runs=self.has_runs
        )

    @rule(
        pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=3),
        length=st.integers(1, 16),
        max_tokens=st.sampled_from([1, 2, 5, 10, 24]),
        n=st.sampled_from([1, 1, 1, 2, 3]),
        stop=st.sampled_from([(), (), (2,), (1, 5, 6)]),
        min_tokens=st.integers(0, 3),
        priority=st.integers(0, 2),
        salt=st.sampled_from(["", "", "a"]),
        prompt_logprobs=st.sampled_from([None, None, None, 0]),
    )
    def add(self, pieces, length, max_tokens, n, min_tokens, **options):
        prompt = [token for piece in pieces for token in piece][:length]
        min_tokens = min(min_tokens, max_tokens)
        request = self.lab.make_request(
            self.next_handle, prompt, max_tokens=max_tokens, n=n, min_tokens=min_tokens, **options
        )
        self.next_handle += n
        for index in range(n):
            self.requests[request.handle + index] = (request, index)
            self.tokens[request.handle + index] = []
        self.scheduler.add(request)

    @precondition(lambda self: len(self.in_flight) <= self.ahead)
    @rule(spoils=st.sampled_from([False] * 15 + [True]), has_computed=st.booleans())
    def schedule(self, spoils=False, has_computed=False):
        decision = self.scheduler.schedule()
        if decision is None:
            assert self.in_flight or not self.scheduler.has_work
            return
        slots = set(decision.slots.tolist())
        assert slots >= {admission.slot for admission in decision.admitted} and slots, "let in for nothing"
        self.seen["ahead"] += bool(self.in_flight)
        self.seen["copies"] += len(decision.block_copies)
        self.seen["chunks"] += int((~decision.samples).sum())
        if self.chunked or decision.slots.size > 1:
            assert decision.num_tokens <= self.budget
        if spoils:
            self.fail_steps(decision, has_computed)
        else:
            self.in_flight.append((decision, self.worker.execute(decision)))

    def fail_steps(self, decision, has_computed):
        """The executor raised, after the tables were changed, and before or after it computed rubbish."""
        self.worker.spoil(decision, has_computed)
        self.in_flight.clear()
        for item in self.scheduler.fail("no luck"):
            assert item.reason == FinishReason.ERROR and item.error == "no luck"
            self.reasons[item.handle] = FinishReason.ABORT  # no promise about its tokens

    @precondition(lambda self: self.in_flight)
    @rule()
    def finish_step(self):
        decision, result = self.in_flight.popleft()
        self.seen["runs"] += len(result.forced)
        self.seen["conclusions"] += len(result.concluded)
        output = self.scheduler.update(decision, result, 1.0)
        assert len(output.handles) == len(output.token_ids)
        for started in output.started:
            assert started.handle not in self.started, "started twice"
            self.started.add(started.handle)
        for handle, token in zip(output.handles, output.token_ids, strict=True):
            assert handle in self.started and handle not in self.reasons, "a token of what does not run"
            self.tokens[handle].append(token)
        for finished in output.finished:
            self.end(finished)

    @rule()
    def step(self):
        if len(self.in_flight) <= self.ahead:
            self.schedule()
        if self.in_flight:
            self.finish_step()

    @rule(choices=st.lists(st.integers(0, 10**6), min_size=1, max_size=3))
    def abort(self, choices):
        handles = {choice % self.next_handle for choice in choices}
        expected = {h for h in handles if h in self.requests and h not in self.reasons}
        finished = self.scheduler.abort(handles)
        assert {f.handle for f in finished} == expected
        for item in finished:
            assert item.reason == FinishReason.ABORT
            self.end(item)

    @rule()
    def reset(self):
        self.scheduler.reset_prefix_cache()
        assert self.scheduler.num_cached_blocks == 0

    @precondition(lambda self: not self.in_flight)
    @rule()
    def sleep(self):
        """All that run are sent back, and the KV is gone."""
        self.scheduler.reset_prefix_cache(preempt=True)
        self.worker.kv[:] = -1
        assert self.scheduler.num_running == 0 and self.scheduler.num_free_blocks == self.num_blocks

    @invariant()
    def all_adds_up(self):
        if not hasattr(self, "scheduler"):
            return
        s = self.scheduler
        s.check()
        assert s.num_free_blocks + s.num_held_blocks + s.num_cached_blocks == self.num_blocks
        assert s.num_running <= self.max_num_seqs
        assert s.num_running + s.num_waiting == len(self.requests) - len(self.reasons)
        assert s.has_work == (s.num_running + s.num_waiting > 0)

    def end(self, finished):
        """Note the end, and compare with the run alone; of what was aborted, as far as it came."""
        assert finished.handle not in self.reasons, "finished twice"
        self.reasons[finished.handle] = finished.reason
        tokens, reason = self.lab.solo_run(*self.requests[finished.handle], self.has_runs)
        got = self.tokens[finished.handle]
        if finished.reason == FinishReason.ABORT:
            assert got == tokens[: len(got)]
            return
        assert (got, finished.reason) == (tokens, reason)
        request, _ = self.requests[finished.handle]
        ends_it = reason == FinishReason.STOP and tokens[-1] in request.stop_token_ids  # a conclusion may be no stop id
        assert finished.stop_token_id == (tokens[-1] if ends_it else None)
        assert (finished.error is not None) == (reason == FinishReason.ERROR)

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        num_steps = 0
        while self.scheduler.has_work or self.in_flight:
            self.step()
            num_steps += 1
            assert num_steps < 40 * 40 * (len(self.requests) + 1), "it does not end"
        self.all_adds_up()
        assert self.reasons.keys() == self.requests.keys()
        assert self.scheduler.num_held_blocks == 0
        self.seen["sequences"] += len(self.requests)
        self.seen["preemptions"] += self.scheduler.stats().num_preemptions
        self.seen["errors"] += sum(reason == FinishReason.ERROR for reason in self.reasons.values())


def test_every_sequence_ends_as_if_alone(lab: SimpleNamespace) -> None:
    seen: Counter[str] = Counter()
    run_state_machine_as_test(lambda: SchedulerMachine(lab, seen), settings=lab.STEPS)
    assert seen["sequences"] > 1000
    assert all(seen[what] for what in ("ahead", "copies", "chunks", "preemptions", "errors", "runs", "conclusions")), (
        seen
    )
