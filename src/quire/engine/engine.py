"""The loop: what arrived, one step, what came of it.

Owns the scheduler, the way to it and the executor; knows neither sockets nor tensors. One step is schedule, launch,
update; a request that fails in the model is ended with an error and the others go on.

Where the executor computes beside this loop, a step is launched while the one before is computed, and then that one is
answered: the device never waits for us. Law: orders that stop or empty the engine find nothing in flight.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from quire.core.errors import QuireError
from quire.core.messages import (
    Abort,
    Add,
    Check,
    Done,
    FromEngine,
    Order,
    Pause,
    Reset,
    Resume,
    Sleep,
    Step,
    ToEngine,
    WakeUp,
)
from quire.core.step import EngineStats, Finished, SchedulerOutput, StepOutput
from quire.engine.arrivals import Arrivals
from quire.engine.bell import Bell
from quire.engine.dormancy import Dormancy, Outcome
from quire.engine.executor.executor import Executor, Ticket
from quire.engine.grammars import CompiledGrammars
from quire.scheduling.scheduler import Scheduler

log = logging.getLogger("quire.engine")


class _Flight(NamedTuple):
    """A step that was launched and not answered."""

    decision: SchedulerOutput
    ticket: Ticket


class Engine:
    """One model's scheduler and executor, stepped from outside. ``clock`` is time.monotonic or a test's.

    ``grammars``: who compiles them for the executor; without it no request may have one.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        clock: Callable[[], float] = time.monotonic,
        grammars: CompiledGrammars | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.executor = executor
        self._arrivals = Arrivals(scheduler, grammars)
        self.dormancy = Dormancy(scheduler, self._arrivals, executor)
        self._clock = clock
        self._flights: deque[_Flight] = deque()

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        has_sequences = self.scheduler.has_work or self._arrivals.has_ready
        return bool(self._flights) or (has_sequences and not self.dormancy.is_paused)

    @property
    def is_compiling(self) -> bool:
        """Whether there will be work without another message."""
        return len(self._arrivals) > 0 and not self.dormancy.is_paused

    @property
    def bell(self) -> Bell:
        """Rings when ``is_compiling`` has become ``has_work``."""
        return self._arrivals.bell

    def handle(self, message: ToEngine) -> list[FromEngine]:
        """Carry out a message; what is returned goes back to the client, in order."""
        match message:
            case Add(request):
                self.dormancy.add(request)
                return []
            case Abort(handles):
                ended = (part.abort(handles) for part in (self._arrivals, self.scheduler, self.dormancy))
                finished = [end for ends in ended for end in ends]
                aborted: list[FromEngine] = [Step(self._only_finished(finished))] if finished else []
                return [*aborted, *self.settle()]
        landed: list[FromEngine] = [Step(output) for output in self._land_all()]
        return landed + self._order(message)

    def _order(self, message: Order | Reset | Check) -> list[FromEngine]:
        match message:
            case Reset(call, preempt):
                self.scheduler.reset_prefix_cache(preempt)
                return [self._done(call)]
            case Check(call):
                try:
                    self.scheduler.check()
                except AssertionError as error:
                    return [self._done(call, f"KV accounting is broken: {error}")]
                return [self._done(call)]
            case Pause() | Resume() | Sleep() | WakeUp():
                return self._tell(self.dormancy.carry_out(message))

    def settle(self) -> list[FromEngine]:
        """Called after every step: come to rest if that was ordered and nothing has to end any more."""
        if self.dormancy.is_settled:
            return []
        landed: list[FromEngine] = [Step(output) for output in self._land_all()]
        return landed + self._tell(self.dormancy.settle())

    def step(self) -> StepOutput | None:
        """Launch a step if there is one, and answer the oldest; None when there is nothing to tell."""
        failed = self._arrivals.let_in() if self._arrivals.has_ready else []
        decision = None
        if not (self._flights and self._flights[-1].ticket.is_done):
            decision = self.scheduler.schedule()
        if decision is not None:
            try:
                flight = _Flight(decision, self.executor.launch(decision))
            except Exception as error:
                return self._fail(decision, error, failed)
            self._flights.append(flight)
            if len(self._flights) == 1 and not flight.ticket.is_done:
                return self._only_finished(failed) if failed else None
        if not self._flights:
            return self._only_finished(failed) if failed else None
        output = self._land(failed)
        if failed or len(self._arrivals):
            return msgspec.structs.replace(output, stats=self.stats(output.stats.step_tokens if output.stats else 0))
        return output

    def _land(self, failed: list[Finished]) -> StepOutput:
        """Answer the oldest step in flight. ``failed``: who ended before it."""
        flight = self._flights.popleft()
        try:
            result = flight.ticket.result()
        except Exception as error:
            return self._fail(flight.decision, error, failed)
        output = self.scheduler.update(flight.decision, result, self._clock())
        return msgspec.structs.replace(output, finished=failed + output.finished) if failed else output

    def _land_all(self) -> list[StepOutput]:
        return [self._land([]) for _ in range(len(self._flights)) if self._flights]

    def stats(self, step_tokens: int = 0) -> EngineStats:
        """The numbers of this moment. Who waits for a grammar waits."""
        stats = self.scheduler.stats(step_tokens)
        return msgspec.structs.replace(stats, num_waiting=stats.num_waiting + len(self._arrivals))

    def rest(self) -> None:
        """Called when there has been nothing to do for a while: all must add up, and only who is paused holds KV."""
        self.scheduler.check()
        held = self.scheduler.num_held_blocks
        assert held == 0 or self.dormancy.is_paused, f"{held} KV blocks leaked"

    def _fail(self, decision: SchedulerOutput, error: Exception, finished: list[Finished]) -> StepOutput:
        """All in flight fail, since later steps build on earlier ones; those that wait, and the engine, go on.

        ``finished``: who ended before it.
        """
        log.error("a step of %d sequences failed", len(decision.slots), exc_info=error)
        reason = error.message if isinstance(error, QuireError) else f"{type(error).__name__} in the model"
        self._flights.clear()
        return self._only_finished(finished + self.scheduler.fail(reason))

    def _only_finished(self, finished: list[Finished]) -> StepOutput:
        return StepOutput(
            handles=[],
            token_ids=[],
            time_s=self._clock(),
            finished=finished,
            stats=self.stats(),
        )

    def _tell(self, outcomes: list[Outcome]) -> list[FromEngine]:
        if not outcomes:
            return []
        told: list[FromEngine] = [Step(self._only_finished([]))]  # who runs and who waits has changed
        for call, error in outcomes:
            told.append(self._done(call, error.message if error else "", type(error).__name__ if error else ""))
        return told

    def _done(self, call: int, error: str = "", kind: str = "") -> Done:
        return Done(
            call=call,
            error=error,
            kind=kind,
            num_free_blocks=self.scheduler.num_free_blocks,
            num_cached_blocks=self.scheduler.num_cached_blocks,
            num_held_blocks=self.scheduler.num_held_blocks,
            is_paused=self.dormancy.is_paused,
            sleep_level=self.dormancy.sleep_level,
        )
