"""Requests with grammars on their way to the scheduler: counted, abortable, woken for, and nobody waits for them."""

import select
from collections.abc import Callable

import numpy as np
import pytest

from quire.core.messages import Abort, Add, Pause, Resume, Step
from quire.core.request import Request
from quire.core.sampling_params import SamplingParams
from quire.core.step import Finished, FinishReason, ModelOutput, SchedulerOutput, StepOutput
from quire.engine.bell import Bell
from quire.engine.engine import Engine
from quire.engine.executor.executor import Computed
from quire.scheduling.scheduler import Scheduler


class Grammars:
    """Compiles when it is told to."""

    def __init__(self) -> None:
        self.kept: set[str] = set()
        self.asked: list[tuple[str, Callable[[str | None], None]]] = []

    def __contains__(self, grammar: str) -> bool:
        return grammar in self.kept

    def compile(self, grammar: str, then: Callable[[str | None], None]) -> None:
        self.asked.append((grammar, then))

    def finish(self, error: str | None = None) -> None:
        """The oldest that was asked for."""
        grammar, then = self.asked.pop(0)
        if error is None:
            self.kept.add(grammar)
        then(error)


class Executor:
    """Answers 7; keeps who was admitted with what grammar."""

    def __init__(self) -> None:
        self.admitted: list[tuple[int, str | None]] = []

    def launch(self, decision: SchedulerOutput) -> Computed:
        self.admitted += [(admission.handle, admission.grammar) for admission in decision.admitted]
        return Computed(ModelOutput(token_ids=np.full(int(decision.samples.sum()), 7, np.int32)))


class House:
    """An engine around these."""

    def __init__(self) -> None:
        self.grammars = Grammars()
        self.executor = Executor()
        scheduler = Scheduler(num_blocks=32, block_size=4, max_num_seqs=4, max_num_batched_tokens=16, max_model_len=64)
        self.engine = Engine(scheduler, self.executor, iter(range(10_000)).__next__, self.grammars)  # type: ignore[arg-type]

    def add(self, handle: int, grammar: str | None, n: int = 1) -> None:
        request = Request(
            handle=handle,
            request_id=str(handle),
            prompt=np.arange(3, 9, dtype=np.int32),
            params=SamplingParams(max_tokens=2, n=n),
            max_total_tokens=8,
            grammar=grammar,
        )
        self.engine.handle(Add(request))

    def abort(self, *handles: int) -> list[Finished]:
        answers = self.engine.handle(Abort(list(handles)))
        return [end for answer in answers if isinstance(answer, Step) for end in answer.output.finished]

    def step(self) -> StepOutput:
        output = self.engine.step()
        assert output is not None
        return output

    def drain(self) -> dict[int, FinishReason]:
        reasons = {}
        while self.engine.has_work:
            output = self.engine.step()
            reasons.update({end.handle: end.reason for end in (output.finished if output else [])})
        self.engine.rest()
        return reasons


@pytest.fixture
def house() -> House:
    return House()


def is_ringing(bell: Bell) -> bool:
    return bool(select.select([bell], [], [], 0)[0])


def test_an_engine_that_compiles_is_idle_until_the_bell_rings(house: House) -> None:
    house.add(1, "G")
    assert not house.engine.has_work and house.engine.is_compiling and not is_ringing(house.engine.bell)
    assert house.engine.stats().num_waiting == 1
    house.engine.rest()
    house.grammars.finish()
    assert is_ringing(house.engine.bell) and house.engine.has_work
    house.engine.bell.hush()
    assert not is_ringing(house.engine.bell)
    assert house.drain() == {1: FinishReason.LENGTH}
    assert house.executor.admitted == [(1, "G")] and not house.engine.is_compiling


def test_others_go_on_meanwhile_and_known_grammars_do_not_wait(house: House) -> None:
    house.add(1, "G")
    house.add(2, None)
    output = house.step()
    assert output.handles == [2]
    assert output.stats is not None and (output.stats.num_running, output.stats.num_waiting) == (1, 1)
    house.grammars.finish()
    house.add(3, "G")
    assert not house.grammars.asked
    assert house.drain() == dict.fromkeys((1, 2, 3), FinishReason.LENGTH)


def test_a_grammar_that_cannot_be_compiled_fails_its_request_alone(house: House) -> None:
    house.add(1, "G", n=2)
    house.add(5, "H")
    house.add(6, None)
    house.grammars.finish("no such rule")
    output = house.step()
    assert [(end.handle, end.reason, end.error) for end in output.finished] == [
        (1, FinishReason.ERROR, "no such rule"),
        (2, FinishReason.ERROR, "no such rule"),
    ]
    assert output.handles == [6]
    house.grammars.finish("neither")
    assert house.drain() == {5: FinishReason.ERROR, 6: FinishReason.LENGTH}


def test_aborted_while_it_compiles(house: House) -> None:
    house.add(1, "G", n=3)
    house.add(9, "H")
    assert [(end.handle, end.reason) for end in house.abort(2, 9, 77)] == [(2, "abort"), (9, "abort")]
    assert house.abort(2) == [] and house.engine.stats().num_waiting == 2
    house.grammars.finish()
    house.grammars.finish()
    assert house.drain() == {1: FinishReason.LENGTH, 3: FinishReason.LENGTH}
    assert [handle for handle, _ in house.executor.admitted] == [1, 3]
    assert not house.engine.is_compiling


def test_paused_while_it_compiles(house: House) -> None:
    house.add(1, "G")
    house.engine.handle(Pause(1))
    house.grammars.finish()
    assert not house.engine.has_work and not house.engine.is_compiling
    house.engine.handle(Resume(2))
    assert house.drain() == {1: FinishReason.LENGTH}


def test_an_engine_that_is_to_drain_waits_for_what_compiles(house: House) -> None:
    house.add(1, "G")
    assert house.engine.handle(Pause(1, drain=True)) == []
    house.add(2, "G")
    house.grammars.finish()
    assert house.drain() == {1: FinishReason.LENGTH}
    assert not house.engine.dormancy.is_paused and house.engine.settle() and house.engine.dormancy.is_paused
    house.engine.handle(Resume(2))
    assert house.drain() == {2: FinishReason.LENGTH}
