"""The loop itself, with a scheduler that is real and a model that is not."""

import numpy as np
import pytest

from quire.core.messages import Abort, Add, Check, Done, Reset, Step
from quire.core.request import Request
from quire.core.sampling_params import SamplingParams
from quire.core.step import FinishReason, ModelOutput, SchedulerOutput, StepOutput
from quire.engine.engine import Engine
from quire.scheduling.scheduler import Scheduler


class CountingExecutor:
    """Answers 1, 2, 3, ...; raises in the steps it is told to."""

    def __init__(self, *failing_steps: int) -> None:
        self.steps = 0
        self._failing = failing_steps

    def execute(self, decision: SchedulerOutput) -> ModelOutput:
        self.steps += 1
        if self.steps in self._failing:
            raise RuntimeError("the model fell over at 0xdeadbeef")
        return ModelOutput(token_ids=np.full(int(decision.samples.sum()), self.steps, np.int32))


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


def test_runs_to_the_end() -> None:
    loop = engine(CountingExecutor())
    loop.handle(Add(request(1)))
    steps = drain(loop)
    assert [step.token_ids.tolist() for step in steps] == [[1], [2], [3]]
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
    answer = loop.handle(Abort([1, 99]))
    assert isinstance(answer, Step)
    assert [(f.handle, f.reason) for f in answer.output.finished] == [(1, FinishReason.ABORT)]
    assert loop.handle(Abort([1])) is None
    checked = loop.handle(Check(7))
    assert isinstance(checked, Done)
    assert (checked.call, checked.error) == (7, "")
    assert checked.num_cached_blocks > 0
    reset = loop.handle(Reset(8))
    assert isinstance(reset, Done)
    assert (reset.num_free_blocks, reset.num_cached_blocks, reset.num_held_blocks) == (32, 0, 0)


def test_rest_notices_a_leak() -> None:
    loop = engine(CountingExecutor())
    loop.handle(Add(request(1)))
    loop.step()
    with pytest.raises(AssertionError, match="leaked"):
        loop.rest()
