"""The loop itself, with a scheduler that is real and a model that is not."""

import numpy as np
import pytest

from quire.core.messages import AWAKE, Abort, Add, Check, Done, FromEngine, Pause, Reset, Resume, Sleep, Step, WakeUp
from quire.core.request import Request
from quire.core.sampling_params import SamplingParams
from quire.core.step import FinishReason, ModelOutput, SchedulerOutput, StepOutput
from quire.engine.engine import Engine
from quire.engine.executor.executor import Computed, Part, Ticket
from quire.scheduling.scheduler import Scheduler


class CountingExecutor:
    """Answers 1, 2, 3, ...; raises in the steps it is told to."""

    def __init__(self, *failing_steps: int) -> None:
        self.steps = 0
        self.asleep: list[Part] = []
        self._failing = failing_steps

    def launch(self, decision: SchedulerOutput) -> Ticket:
        self.steps += 1
        if self.steps in self._failing:
            raise RuntimeError("the model fell over at 0xdeadbeef")
        return Computed(ModelOutput(token_ids=np.full(int(decision.samples.sum()), self.steps, np.int32)))

    def release(self, part: Part) -> None:
        self.asleep.append(part)

    def restore(self, part: Part) -> None:
        self.asleep.remove(part)


def engine(executor: CountingExecutor) -> Engine:
    scheduler = Scheduler(num_blocks=32, block_size=4, max_num_seqs=4, max_num_batched_tokens=16, max_model_len=64)
    return Engine(scheduler, executor, clock=iter(range(10_000)).__next__)


def request(handle: int, length: int = 6, max_tokens: int = 3) -> Request:
    return Request(
        handle=handle,
        request_id=str(handle),
        prompt=np.arange(handle, handle + length, dtype=np.int32),
        params=SamplingParams(max_tokens=max_tokens),
        max_total_tokens=length + max_tokens,
    )


def drain(engine: Engine) -> list[StepOutput]:
    steps = []
    while engine.has_work:
        output = engine.step()
        if output is not None:
            steps.append(output)
    return steps


def dones(messages: list[FromEngine]) -> list[tuple[int, str]]:
    """Calls that were answered, and the class of what was wrong."""
    return [(m.call, m.kind) for m in messages if isinstance(m, Done)]


def count(steps: list[StepOutput]) -> int:
    return sum(len(step.token_ids) for step in steps)


def test_runs_to_the_end() -> None:
    loop = engine(CountingExecutor())
    loop.handle(Add(request(1)))
    steps = drain(loop)
    assert [step.token_ids for step in steps] == [[1], [2], [3]]
    assert [f.reason for f in steps[-1].finished] == [FinishReason.LENGTH]
    loop.rest()


def test_a_failing_step_fails_its_own_requests_only() -> None:
    loop = engine(CountingExecutor(2))
    loop.handle(Add(request(1)))
    first = loop.step()
    assert first is not None
    failed = loop.step()
    assert failed is not None
    assert [(f.handle, f.reason) for f in failed.finished] == [(1, FinishReason.ERROR)]
    assert "0x" not in (failed.finished[0].error or "")
    loop.handle(Add(request(10)))
    assert sum(len(step.token_ids) for step in drain(loop)) == 3
    loop.rest()


def test_abort_and_calls() -> None:
    loop = engine(CountingExecutor())
    loop.handle(Add(request(1)))
    loop.step()
    (answer,) = loop.handle(Abort([1, 99]))
    assert isinstance(answer, Step)
    assert [(f.handle, f.reason) for f in answer.output.finished] == [(1, FinishReason.ABORT)]
    assert loop.handle(Abort([1])) == []
    (checked,) = loop.handle(Check(7))
    assert isinstance(checked, Done)
    assert (checked.call, checked.error) == (7, "")
    assert checked.num_cached_blocks > 0
    (reset,) = loop.handle(Reset(8))
    assert isinstance(reset, Done)
    assert (reset.num_free_blocks, reset.num_cached_blocks, reset.num_held_blocks) == (32, 0, 0)


def test_rest_notices_a_leak() -> None:
    loop = engine(CountingExecutor())
    loop.handle(Add(request(1)))
    loop.step()
    with pytest.raises(AssertionError, match="leaked"):
        loop.rest()


def test_paused_requests_go_on_where_they_were() -> None:
    loop = engine(CountingExecutor())
    loop.handle(Add(request(1)))
    loop.step()
    done = loop.handle(Pause(1))[-1]
    assert isinstance(done, Done) and done.is_paused and done.num_held_blocks > 0
    loop.handle(Add(request(20)))
    assert not loop.has_work
    assert loop.scheduler.num_waiting == 1
    loop.rest()  # what is paused may hold KV
    assert dones(loop.handle(Pause(2))) == [(2, "")]
    assert dones(loop.handle(Resume(3))) == [(3, "")]
    assert count(drain(loop)) == 2 + 3
    loop.rest()


def test_draining_holds_back_who_comes_later() -> None:
    loop = engine(CountingExecutor())
    loop.handle(Add(request(1)))
    loop.step()
    assert loop.handle(Pause(1, drain=True, clear=True)) == []
    loop.handle(Add(request(20)))
    loop.handle(Add(request(30)))
    assert loop.has_work and loop.settle() == []
    loop.handle(Abort([30]))
    told: list[FromEngine] = []
    while loop.has_work:
        loop.step()
        told += loop.settle()
    assert dones(told) == [(1, "")]
    done = told[-1]
    assert isinstance(done, Done) and done.num_cached_blocks == 0
    assert loop.scheduler.num_waiting == 1
    loop.handle(Resume(2))
    assert count(drain(loop)) == 3


def test_an_abort_may_be_the_last_that_is_waited_for() -> None:
    loop = engine(CountingExecutor())
    loop.handle(Add(request(1)))
    assert loop.handle(Pause(1, drain=True)) == []
    assert dones(loop.handle(Abort([1]))) == [(1, "")]


def test_who_resumes_calls_off_what_is_pending() -> None:
    loop = engine(CountingExecutor())
    loop.handle(Add(request(1)))
    loop.handle(Pause(1, drain=True))
    loop.handle(Add(request(20)))
    assert dones(loop.handle(Resume(2))) == [(1, "Conflict"), (2, "")]
    assert count(drain(loop)) == 6
    assert loop.settle() == []


def test_an_order_at_once_settles_those_that_wait() -> None:
    loop = engine(CountingExecutor())
    loop.handle(Add(request(1)))
    loop.handle(Pause(1, drain=True))
    assert dones(loop.handle(Pause(2))) == [(1, ""), (2, "")]


def test_asleep_nothing_is_held_and_nothing_is_lost() -> None:
    executor = CountingExecutor()
    loop = engine(executor)
    loop.handle(Add(request(1)))
    loop.step()
    done = loop.handle(Sleep(1, level=2))[-1]
    assert isinstance(done, Done)
    assert (done.sleep_level, done.num_free_blocks, done.num_held_blocks) == (2, 32, 0)
    assert executor.asleep == ["weights", "kv_cache"]
    assert dones(loop.handle(Resume(2))) == [(2, "Conflict")]
    assert dones(loop.handle(WakeUp(3, ["scheduling", "weights"]))) == [(3, "Conflict")]
    assert dones(loop.handle(WakeUp(4, ["nonsense"]))) == [(4, "InvalidRequest")]
    assert executor.asleep == ["weights", "kv_cache"]
    done = loop.handle(WakeUp(5, ["weights"]))[-1]
    assert isinstance(done, Done) and done.is_paused and done.sleep_level == 2
    assert executor.asleep == ["kv_cache"]
    done = loop.handle(WakeUp(6))[-1]
    assert isinstance(done, Done) and not done.is_paused and done.sleep_level == AWAKE
    assert executor.asleep == []
    assert count(drain(loop)) == 2
    loop.rest()


def test_levels() -> None:
    executor = CountingExecutor()
    loop = engine(executor)
    done = loop.handle(Sleep(1, level=0))[-1]
    assert isinstance(done, Done) and (done.is_paused, done.sleep_level) == (True, 0)
    assert executor.asleep == []
    loop.handle(Sleep(2, level=1))
    assert executor.asleep == ["kv_cache"]
    loop.handle(Sleep(3, level=1))
    assert executor.asleep == ["kv_cache"]
    assert dones(loop.handle(Sleep(4, level=3))) == [(4, "InvalidRequest")]
    loop.handle(WakeUp(5))
    assert loop.handle(WakeUp(6))[-1].is_paused is False  # type: ignore[union-attr]


def test_waking_does_not_end_a_mere_pause() -> None:
    loop = engine(CountingExecutor())
    loop.handle(Pause(1))
    done = loop.handle(WakeUp(2))[-1]
    assert isinstance(done, Done) and done.is_paused


def test_reset_may_send_back_those_that_run() -> None:
    loop = engine(CountingExecutor())
    loop.handle(Add(request(1)))
    loop.step()
    (done,) = loop.handle(Reset(1))
    assert isinstance(done, Done) and done.num_held_blocks > 0
    (done,) = loop.handle(Reset(2, preempt=True))
    assert isinstance(done, Done) and done.num_free_blocks == 32
    assert count(drain(loop)) == 2
