"""Steps launched while the one before is computed: clients are told the same, and the device is never kept waiting."""

from collections.abc import Callable

import numpy as np
import pytest

from quire.core.messages import Abort, Add, Check, Done, FromEngine, Pause, Reset, Resume, Sleep, Step, WakeUp
from quire.core.request import Request
from quire.core.sampling_params import SamplingParams
from quire.core.step import FinishReason, ModelOutput, SchedulerOutput, StepOutput
from quire.engine.engine import Engine
from quire.engine.executor.executor import Computed, Part, Ticket
from quire.scheduling.scheduler import Scheduler

END = 3


class Later:
    """A step on its way."""

    is_done = False

    def __init__(self, device: "Device", number: int, output: ModelOutput) -> None:
        self._device, self._number, self._output = device, number, output

    def result(self) -> ModelOutput:
        self._device.num_answered += 1
        if self._number in self._device.failing:
            raise RuntimeError("gone")
        return self._output


class Device:
    """Answers step number % 5 to everyone; notes how many steps it had to do whenever one was asked for."""

    def __init__(self, *, failing: tuple[int, ...] = (), is_done: Callable[[int], bool] = lambda number: False) -> None:
        self.failing, self._is_done = failing, is_done
        self.num_launched = self.num_answered = 0
        self.depths: list[int] = []

    def launch(self, decision: SchedulerOutput) -> Ticket:
        self.num_launched += 1
        self.depths.append(self.num_launched - self.num_answered)
        tokens = np.full(int(decision.samples.sum()), self.num_launched % 5, np.int32)
        output = ModelOutput(token_ids=tokens)
        if self._is_done(self.num_launched):
            self.num_answered += 1
            return Computed(output)
        return Later(self, self.num_launched, output)

    def release(self, part: Part) -> None:
        assert self.num_launched == self.num_answered, f"{part} is in use"

    restore = release


def engine(device: Device) -> Engine:
    scheduler = Scheduler(num_blocks=32, block_size=4, max_num_seqs=4, max_num_batched_tokens=16, max_model_len=64)
    return Engine(scheduler, device, clock=iter(range(10_000)).__next__)


def request(handle: int, max_tokens: int = 3, stop: tuple[int, ...] = ()) -> Request:
    return Request(
        handle=handle,
        request_id=str(handle),
        prompt=np.arange(handle, handle + 6, dtype=np.int32),
        params=SamplingParams(max_tokens=max_tokens),
        max_total_tokens=6 + max_tokens,
        stop_token_ids=stop,
    )


def drain(loop: Engine) -> list[StepOutput]:
    outputs = []
    while loop.has_work:
        output = loop.step()
        outputs += [] if output is None else [output]
    loop.rest()
    return outputs


def told(messages: list[FromEngine]) -> list[StepOutput]:
    return [message.output for message in messages if isinstance(message, Step)]


def tokens(outputs: list[StepOutput]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def test_one_step_is_launched_ahead() -> None:
    device = Device()
    loop = engine(device)
    loop.handle(Add(request(1, max_tokens=6)))
    assert loop.step() is None, "nothing is known yet"
    outputs = drain(loop)
    assert tokens(outputs) == [1, 2, 3, 4, 0, 1]
    assert device.depths == [1, 2, 2, 2, 2, 2] and device.num_launched == 6, "no step was computed for nothing"


def test_a_stop_costs_one_step_that_nobody_is_told_of() -> None:
    device = Device()
    loop = engine(device)
    loop.handle(Add(request(1, max_tokens=20, stop=(END,))))
    outputs = drain(loop)
    assert tokens(outputs) == [1, 2, 3] and device.num_launched == 4
    assert [f.reason for output in outputs for f in output.finished] == [FinishReason.STOP]


def test_what_is_done_is_answered_before_the_next_is_decided() -> None:
    device = Device(is_done=lambda number: number % 3 == 0)
    loop = engine(device)
    loop.handle(Add(request(1, max_tokens=8)))
    outputs = drain(loop)
    assert tokens(outputs) == [1, 2, 3, 4, 0, 1, 2, 3]
    assert device.depths == [1, 2, 2, 1, 2, 2, 1, 2]


def test_all_in_flight_fail_together() -> None:
    loop = engine(Device(failing=(2,)))
    loop.handle(Add(request(1, max_tokens=9)))
    loop.step()
    first = loop.step()
    assert first is not None and first.token_ids == [1]
    failed = loop.step()
    assert failed is not None and [(f.handle, f.reason) for f in failed.finished] == [(1, FinishReason.ERROR)]
    assert not loop.has_work
    loop.handle(Add(request(2)))
    assert tokens(drain(loop)) == [4, 0, 1], "the engine goes on"


@pytest.mark.parametrize("order", [Pause(1), Sleep(1, level=2), Reset(1, preempt=True), Check(1)], ids=repr)
def test_orders_find_nothing_in_flight(order: Pause | Sleep | Reset | Check) -> None:
    device = Device()
    loop = engine(device)
    loop.handle(Add(request(1, max_tokens=5)))
    loop.step()
    loop.step()
    assert device.num_launched == 2
    messages = loop.handle(order)
    assert tokens(told(messages)) == [2] and device.num_answered == 2
    assert [(m.call, m.kind) for m in messages if isinstance(m, Done)] == [(1, "")]
    if isinstance(order, Pause | Sleep):
        assert not loop.has_work
        loop.handle(Resume(2) if isinstance(order, Pause) else WakeUp(2))
    assert len(tokens(drain(loop))) == 3


def test_who_is_drained_may_end_in_flight() -> None:
    device = Device()
    loop = engine(device)
    loop.handle(Add(request(1, max_tokens=20, stop=(END,))))
    loop.handle(Sleep(1, level=2, drain=True))
    outputs, answers = [], []
    while loop.has_work:
        output = loop.step()
        outputs += [] if output is None else [output]
        messages = loop.settle()
        outputs += told(messages)
        answers += [message for message in messages if isinstance(message, Done)]
    assert tokens(outputs) == [1, 2, 3]
    assert [(answer.call, answer.kind) for answer in answers] == [(1, "")]


def test_an_abort_drops_what_is_in_flight() -> None:
    loop = engine(Device())
    loop.handle(Add(request(1, max_tokens=9)))
    loop.handle(Add(request(2, max_tokens=4)))
    loop.step()
    loop.step()
    loop.handle(Abort([1]))
    outputs = drain(loop)
    assert {handle for output in outputs for handle in output.handles} == {2}
    assert len(tokens(outputs)) == 3
