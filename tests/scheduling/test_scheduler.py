"""What the scheduler promises beyond the transcripts: ends, log probabilities, failures, counters, steady cost."""

import sys
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from quire.core import codec
from quire.core.step import (
    FinishReason,
    ModelOutput,
    PromptLogprobs,
    SchedulerOutput,
    StepOutput,
    TopLogprobs,
)
from quire.scheduling.queue import LPM_WINDOW
from quire.scheduling.scheduler import Scheduler


def make_scheduler(**changes: Any) -> Scheduler:
    options = {
        "num_blocks": 64,
        "block_size": 4,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 64,
        "max_model_len": 64,
        "clock": lambda: 2.5,
    }
    return Scheduler(**(options | changes))


def decide(scheduler: Scheduler) -> SchedulerOutput:
    decision = scheduler.schedule()
    assert decision is not None
    return decision


def answer(decision: SchedulerOutput, token: int = 7, **more: Any) -> ModelOutput:
    return ModelOutput(token_ids=np.full(int(decision.samples.sum()), token, np.int32), **more)


def step(scheduler: Scheduler, token: int = 7) -> StepOutput:
    decision = decide(scheduler)
    return scheduler.update(decision, answer(decision, token), 3.0)


def score(token: int) -> TopLogprobs:
    return TopLogprobs(np.array([token], np.int32), np.array([-1.0], np.float32), (1,))


def test_a_stop_id_counts_once_min_tokens_are_there(lab: SimpleNamespace) -> None:
    scheduler = make_scheduler()
    scheduler.add(lab.make_request(1, [1, 2], max_tokens=9, stop=(5, 7), min_tokens=3))
    outputs = [step(scheduler) for _ in range(3)]
    assert [len(output.finished) for output in outputs] == [0, 0, 1]
    assert outputs[2].token_ids == [7], "the stop token is told too"
    assert (outputs[2].finished[0].reason, outputs[2].finished[0].stop_token_id) == (FinishReason.STOP, 7)


def test_stop_ids_of_any_number_live_side_by_side(lab: SimpleNamespace) -> None:
    scheduler = make_scheduler()
    scheduler.add(lab.make_request(1, [1, 2], max_tokens=2))
    scheduler.add(lab.make_request(2, [1, 2], max_tokens=9, stop=(7,)))
    assert [item.handle for item in step(scheduler, 8).finished] == []
    scheduler.add(lab.make_request(3, [1, 2], max_tokens=9, stop=tuple(range(10, 30))))
    finished = {item.handle: item.reason for item in step(scheduler, 7).finished}
    assert finished == {1: FinishReason.LENGTH, 2: FinishReason.STOP}
    assert [item.handle for item in step(scheduler, 29).finished] == [3]


def test_a_sequence_without_finite_logits_fails_alone(lab: SimpleNamespace) -> None:
    scheduler = make_scheduler()
    for handle in (1, 2, 3):
        scheduler.add(lab.make_request(handle, [handle] * 6, max_tokens=9))
    decision = decide(scheduler)
    result = ModelOutput(token_ids=np.array([7, -1, 9], np.int32), logprobs={0: score(7), 1: score(0), 2: score(9)})
    output = scheduler.update(decision, result, 3.0)
    assert (output.handles, output.token_ids) == ([1, 3], [7, 9])
    assert {row: int(top.token_ids[0]) for row, top in output.logprobs.items()} == {0: 7, 1: 9}
    (finished,) = output.finished
    assert (finished.handle, finished.reason) == (2, FinishReason.ERROR)
    assert finished.error is not None and "not finite" in finished.error
    scheduler.abort([1, 3])
    scheduler.add(lab.make_request(4, [2] * 6))
    assert decide(scheduler).admitted[0].num_computed_tokens == 0, "KV of a failed sequence is never shared"


def test_an_abort_between_decision_and_answer_drops_the_row(lab: SimpleNamespace) -> None:
    scheduler = make_scheduler()
    for handle in (1, 2, 3):
        scheduler.add(lab.make_request(handle, [handle] * 6))
    decision = decide(scheduler)
    assert [item.handle for item in scheduler.abort([2, 99])] == [2]
    output = scheduler.update(decision, answer(decision, logprobs={1: score(1), 2: score(2)}), 3.0)
    assert output.handles == [1, 3]
    assert list(output.logprobs) == [1]
    assert [item.handle for item in output.started] == [1, 3]
    assert output.finished == []
    scheduler.add(lab.make_request(4, [4] * 6))
    following = decide(scheduler)
    assert following.released.tolist() == [decision.slots[1]]
    assert following.admitted[0].slot == decision.slots[1], "a slot may be taken again in the step that releases it"


def test_nothing_is_kept_of_a_failed_step(lab: SimpleNamespace) -> None:
    scheduler = make_scheduler(max_num_batched_tokens=32)
    scheduler.add(lab.make_request(1, [1] * 50))
    step(scheduler)
    decide(scheduler)
    finished = scheduler.fail("the device is gone")
    assert [(item.handle, item.reason, item.error) for item in finished] == [
        (1, FinishReason.ERROR, "the device is gone"),
    ]
    scheduler.check()
    assert (scheduler.num_cached_blocks, scheduler.num_held_blocks) == (0, 0)
    assert scheduler.schedule() is None
    assert not scheduler.has_work


def test_decisions_are_answered_in_order(lab: SimpleNamespace) -> None:
    scheduler = make_scheduler()
    scheduler.add(lab.make_request(1, [1] * 9))
    first, second = decide(scheduler), decide(scheduler)
    with pytest.raises(AssertionError, match="not the oldest"):
        scheduler.update(second, answer(second), 0.0)
    assert (first.starts.tolist(), second.starts.tolist()) == ([0], [9])


def test_a_step_ahead_counts_on_one_token_each_and_no_more_than_a_sequence_may_have(lab: SimpleNamespace) -> None:
    scheduler = make_scheduler()
    scheduler.add(lab.make_request(1, [1] * 4, max_tokens=3, stop=(7,)))
    scheduler.add(lab.make_request(2, [2] * 4, max_tokens=1))
    first = decide(scheduler)
    ahead = decide(scheduler)
    assert (ahead.slots.tolist(), ahead.starts.tolist(), ahead.counts.tolist()) == ([first.slots[0]], [4], [1])
    output = scheduler.update(first, answer(first, 7), 0.0)  # the first one ends by its stop id
    assert [(item.handle, item.reason) for item in output.finished] == [
        (1, FinishReason.STOP),
        (2, FinishReason.LENGTH),
    ]
    scheduler.add(lab.make_request(3, [3] * 4))
    third = decide(scheduler)
    assert set(third.slots.tolist()) <= set(first.slots.tolist()), "slots are taken while a step of others is in flight"
    output = scheduler.update(ahead, answer(ahead, 5), 0.0)
    assert output.token_ids == [] and output.finished == [] and output.started == []
    output = scheduler.update(third, answer(third, 6), 0.0)
    assert (output.handles, output.token_ids) == ([3], [6])


def test_prompt_logprobs_see_every_position_even_if_cached(lab: SimpleNamespace) -> None:
    scheduler = make_scheduler(max_num_batched_tokens=8)
    scheduler.add(lab.make_request(1, [1] * 12, max_tokens=1))
    step(scheduler)
    step(scheduler)
    scheduler.add(lab.make_request(2, [1] * 12, max_tokens=3, n=2, prompt_logprobs=0))
    decision = decide(scheduler)
    (admission,) = decision.admitted
    assert admission.num_computed_tokens == 0
    piece = PromptLogprobs(1, [score(1)] * 8)
    output = scheduler.update(decision, answer(decision, prompt_logprobs={admission.slot: piece}), 3.0)
    assert output.prompt_logprobs == {2: piece}
    decision = decide(scheduler)
    assert scheduler.abort([2])
    late = PromptLogprobs(9, [score(1)] * 3)
    output = scheduler.update(decision, answer(decision, prompt_logprobs={admission.slot: late}), 3.0)
    assert output.prompt_logprobs == {}, "it was aborted meanwhile"


def test_prompt_logprobs_once_delivered_need_no_second_computation(lab: SimpleNamespace) -> None:
    scheduler = make_scheduler(max_num_seqs=1, policy="priority")
    scheduler.add(lab.make_request(1, [1] * 8, max_tokens=9, prompt_logprobs=0, priority=1))
    decision = decide(scheduler)
    piece = PromptLogprobs(1, [score(1)] * 7)
    scheduler.update(decision, answer(decision, prompt_logprobs={int(decision.slots[0]): piece}), 3.0)
    scheduler.add(lab.make_request(2, [2] * 8, max_tokens=1, priority=0))
    step(scheduler)
    resumed = decide(scheduler).admitted[0]
    assert (resumed.handle, resumed.num_computed_tokens) == (1, 8)
    assert (resumed.prompt_len, resumed.tokens.tolist()) == (8, [1] * 8 + [7])


def test_continuations_have_their_own_handles_and_seeds(lab: SimpleNamespace) -> None:
    scheduler = make_scheduler(enable_prefix_caching=False)
    scheduler.add(lab.make_request(5, [1] * 9, n=3))
    admitted = decide(scheduler).admitted
    assert [(item.handle, item.seed) for item in admitted] == [(5, 5), (6, 6), (7, 7)]
    assert [item.num_computed_tokens for item in admitted] == [0, 0, 0], "without a cache nobody waits for a sibling"


def test_counters_tell_what_was_computed(lab: SimpleNamespace) -> None:
    scheduler = make_scheduler()
    scheduler.add(lab.make_request(1, [1] * 10, max_tokens=2))
    output = step(scheduler)
    assert [(s.handle, s.num_cached_tokens, s.scheduled_s) for s in output.started] == [(1, 0, 2.5)]
    assert output.time_s == 3.0
    scheduler.add(lab.make_request(2, [1] * 10, max_tokens=2))
    output = step(scheduler)
    assert [(s.handle, s.num_cached_tokens) for s in output.started] == [(2, 9)]
    stats = output.stats
    assert stats is not None
    assert (stats.num_prompt_tokens, stats.num_generation_tokens, stats.step_tokens) == (11, 3, 2)
    assert (stats.prefix_queries, stats.prefix_hits) == (20, 9)
    assert (stats.num_running, stats.num_waiting, stats.num_preemptions) == (1, 0, 0)
    assert stats.kv_usage == scheduler.num_held_blocks / 64 > 0


def test_waiting_is_counted_in_sequences_and_tokens(lab: SimpleNamespace) -> None:
    scheduler = make_scheduler(max_num_seqs=1)
    scheduler.add(lab.make_request(1, [1] * 10, n=3))
    scheduler.add(lab.make_request(9, [1] * 5))
    assert (scheduler.num_waiting, scheduler.num_waiting_tokens) == (4, 35)
    step(scheduler)
    assert (scheduler.num_running, scheduler.num_waiting, scheduler.num_waiting_tokens) == (1, 3, 25)
    scheduler.abort([2, 9])
    assert (scheduler.num_waiting, scheduler.num_waiting_tokens) == (1, 10)


def test_lpm_lets_nobody_starve(lab: SimpleNamespace) -> None:
    scheduler = make_scheduler(max_num_seqs=1, policy="lpm")
    scheduler.add(lab.make_request(0, [1] * 12, max_tokens=1))
    step(scheduler)
    scheduler.add(lab.make_request(1, [2] * 12, max_tokens=1))
    served: list[int] = []
    while 1 not in served:
        scheduler.add(lab.make_request(len(served) + 2, [1] * 12, max_tokens=1))
        served += [item.handle for item in step(scheduler).finished]
    assert len(served) == LPM_WINDOW + 1


def test_a_crowded_engine_does_not_search_the_cache_in_every_step(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = make_scheduler(num_blocks=16, enable_prefix_caching=True)
    scheduler.add(lab.make_request(1, [1] * 50, max_tokens=10))
    scheduler.add(lab.make_request(2, [2] * 20, max_tokens=10))
    step(scheduler)
    step(scheduler)
    lookups: list[str] = []
    monkeypatch.setattr(scheduler._kv, "lookup", lambda salt, tokens: lookups.append(salt))
    for _ in range(5):
        step(scheduler)
    assert (scheduler.num_running, scheduler.num_waiting, lookups) == (1, 1, [])


def test_who_is_sent_back_in_vain_leaves_nothing_behind(lab: SimpleNamespace) -> None:
    """The blocks of the lesser sequence are shared with the greater one, so sending it back frees too few."""
    scheduler = make_scheduler(num_blocks=8, max_model_len=32, policy="priority")
    scheduler.add(lab.make_request(1, [1] * 8 + [2] * 8, max_tokens=9, priority=0))
    step(scheduler)
    scheduler.add(lab.make_request(2, [1] * 8 + [3] * 4, max_tokens=9, priority=2))
    step(scheduler)
    scheduler.add(lab.make_request(3, [4] * 16, max_tokens=9, priority=1))
    output = step(scheduler)
    assert output.stats is not None and output.stats.num_preemptions == 1
    assert output.handles == [1]
    scheduler.check()


def test_nobody_is_sent_back_for_one_that_cannot_fit(lab: SimpleNamespace) -> None:
    scheduler = make_scheduler(num_blocks=8, max_model_len=32, policy="priority")
    scheduler.add(lab.make_request(1, [1] * 16, max_tokens=9, priority=0))
    scheduler.add(lab.make_request(2, [2] * 4, max_tokens=9, priority=2))
    step(scheduler)
    scheduler.add(lab.make_request(3, [3] * 20, max_tokens=9, priority=1))
    assert step(scheduler).handles == [1, 2]


def count_calls(scheduler: Scheduler) -> int:
    """Python and C functions called in one step of schedule and update."""
    calls = 0

    def watch(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(watch)
    try:
        step(scheduler)
    finally:
        sys.setprofile(None)
    return calls


def test_a_steady_step_costs_the_same_for_few_and_many(lab: SimpleNamespace) -> None:
    counts = []
    for num_seqs in (2, 100):
        scheduler = make_scheduler(
            num_blocks=1000, max_num_seqs=num_seqs, max_num_batched_tokens=1000, enable_prefix_caching=False
        )
        for handle in range(num_seqs):
            scheduler.add(lab.make_request(handle, [handle] * 5, max_tokens=30, stop=(2,)))
        step(scheduler)
        counts.append([count_calls(scheduler) for _ in range(8)])  # one of the steps gives out blocks
    assert counts[0] == counts[1]
    assert max(counts[0]) < 100


@pytest.mark.parametrize(
    ("num_blocks", "told"),
    [(7, [[(0, 1), (1, 2)], [], [], []]), (6, [[(0, 1)], [], [(1, 2)], []])],
    ids=["blocks that will soon be needed come along", "not where they are few"],
)
def test_a_steady_step_tells_only_what_changed(
    lab: SimpleNamespace, num_blocks: int, told: list[list[tuple[int, int]]]
) -> None:
    scheduler = make_scheduler(num_blocks=num_blocks, max_model_len=24)
    scheduler.add(lab.make_request(1, [1] * 4, max_tokens=12))
    scheduler.add(lab.make_request(2, [2] * 6, max_tokens=12))
    step(scheduler)
    updates = []
    for _ in range(4):
        decision = decide(scheduler)
        assert not decision.released.size and not decision.admitted and not decision.block_copies.size
        rows = {slot: row for row, slot in enumerate(decision.slots.tolist())}
        updates.append([(rows[slot], index) for slot, index, _ in decision.block_updates.tolist()])
        scheduler.update(decision, answer(decision), 3.0)
    assert updates == told


def test_what_crosses_a_process_can(lab: SimpleNamespace) -> None:
    scheduler = make_scheduler()
    scheduler.add(lab.make_request(1, [1] * 6))
    decision = decide(scheduler)
    there: SchedulerOutput = codec.Decoder[SchedulerOutput](SchedulerOutput).decode(codec.encode(decision))
    assert there.admitted[0].tokens.tolist() == [1] * 6
    assert there.block_updates.tolist() == decision.block_updates.tolist()
    output = scheduler.update(decision, answer(decision), 3.0)
    back: StepOutput = codec.Decoder[StepOutput](StepOutput).decode(codec.encode(output))
    assert (back.handles, back.token_ids) == ([1], [7])


def run(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int32)


def test_forced_tokens_follow_and_are_computed_as_a_chunk(lab: SimpleNamespace) -> None:
    scheduler = make_scheduler(max_num_batched_tokens=8)
    scheduler.add(lab.make_request(1, [1, 2], max_tokens=30))
    scheduler.add(lab.make_request(2, [3, 4], max_tokens=30))
    decision = decide(scheduler)
    forced = {0: run(*range(20, 30))}
    output = scheduler.update(decision, answer(decision, forced=forced, logprobs={1: score(7)}), 3.0)
    assert output.handles == [1] * 11 + [2]
    assert output.token_ids == [7, *range(20, 30), 7]
    assert list(output.logprobs) == [11], "the row of the second sequence has moved"
    assert scheduler.stats().num_generation_tokens == 12
    chunks = []
    while len(chunks) < 3:
        decision = decide(scheduler)
        chunks.append((decision.starts.tolist(), decision.counts.tolist(), decision.samples.tolist()))
        scheduler.update(decision, answer(decision), 3.0)
        scheduler.check()
    assert chunks[0] == ([2, 2], [7, 1], [False, True]), "no more than the budget, and others go on meanwhile"
    assert chunks[1] == ([9, 3], [4, 1], [True, True])
    assert chunks[2] == ([13, 4], [1, 1], [True, True])


@pytest.mark.parametrize(
    "tokens, told, reason, stop_id",
    [
        ((8, 5, 9), [7, 8, 5], FinishReason.STOP, 5),
        ((8, 9, 10, 11), [7, 8, 9, 10], FinishReason.LENGTH, None),
        ((8, 9, 10), [7, 8, 9, 10], FinishReason.LENGTH, None),
        ((8, 9, 5), [7, 8, 9, 5], FinishReason.STOP, 5),
    ],
)
def test_forced_tokens_end_where_sampled_ones_would(
    lab: SimpleNamespace, tokens: tuple[int, ...], told: list[int], reason: FinishReason, stop_id: int | None
) -> None:
    scheduler = make_scheduler()
    scheduler.add(lab.make_request(1, [1, 2], max_tokens=4, stop=(5,), min_tokens=2))
    decision = decide(scheduler)
    output = scheduler.update(decision, answer(decision, forced={0: run(*tokens)}), 3.0)
    assert output.token_ids == told
    assert [(end.reason, end.stop_token_id) for end in output.finished] == [(reason, stop_id)]
    assert not scheduler.has_work and scheduler.num_held_blocks == 0


def test_what_a_grammar_concludes_ends_before_min_tokens(lab: SimpleNamespace) -> None:
    scheduler = make_scheduler()
    for handle, max_tokens in ((1, 9), (2, 9), (3, 2)):
        scheduler.add(lab.make_request(handle, [handle], max_tokens=max_tokens, stop=(7,), min_tokens=max_tokens))
    decision = decide(scheduler)
    result = answer(decision, forced={1: run(8, 7), 2: run(8, 7)}, concluded=frozenset([0, 1, 2]))
    output = scheduler.update(decision, result, 3.0)
    assert output.token_ids == [7, 7, 8, 7, 7, 8]
    assert [(end.handle, end.reason) for end in output.finished] == [
        (1, FinishReason.STOP),
        (2, FinishReason.STOP),
        (3, FinishReason.LENGTH),
    ]


def test_a_failure_has_its_reason(lab: SimpleNamespace) -> None:
    scheduler = make_scheduler()
    scheduler.add(lab.make_request(1, [1]))
    scheduler.add(lab.make_request(2, [2]))
    decision = decide(scheduler)
    output = scheduler.update(decision, answer(decision, -1, failures={1: "no token is left"}), 3.0)
    errors = [end.error or "" for end in output.finished]
    assert "not finite" in errors[0] and errors[1] == "no token is left"


def test_a_run_of_an_aborted_sequence_is_not_told(lab: SimpleNamespace) -> None:
    scheduler = make_scheduler()
    scheduler.add(lab.make_request(1, [1, 2]))
    scheduler.add(lab.make_request(2, [3]))
    decision = decide(scheduler)
    scheduler.abort([1])
    output = scheduler.update(decision, answer(decision, forced={0: run(8), 1: run(9)}), 3.0)
    assert (output.handles, output.token_ids) == ([2, 2], [7, 9])
    scheduler.check()
