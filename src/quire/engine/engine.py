"""The loop: what arrived, one step, what came of it.

Owns the scheduler, the way to it and the executor; knows neither sockets nor tensors. One step is schedule, execute,
update; a request that fails in the model is ended with an error and the others go on.
"""

import logging
import time
from collections.abc import Callable

import msgspec
import numpy as np

from quire.core.errors import QuireError
from quire.core.messages import (
    Abort,
    Add,
    Check,
    Done,
    FromEngine,
    Pause,
    Reset,
    Resume,
    Shutdown,
    Sleep,
    Step,
    ToEngine,
    WakeUp,
)
from quire.core.step import EngineStats, Finished, SchedulerOutput, StepOutput
from quire.engine.arrivals import Arrivals
from quire.engine.bell import Bell
from quire.engine.dormancy import Dormancy, Outcome
from quire.engine.executor.executor import Executor
from quire.engine.grammars import CompiledGrammars
from quire.scheduling.scheduler import Scheduler

log = logging.getLogger("quire.engine")


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

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return (self.scheduler.has_work or self._arrivals.has_ready) and not self.dormancy.is_paused

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
            case Abort(handles):
                ended = (part.abort(handles) for part in (self._arrivals, self.scheduler, self.dormancy))
                finished = [end for ends in ended for end in ends]
                aborted: list[FromEngine] = [Step(self._only_finished(finished))] if finished else []
                return [*aborted, *self.settle()]
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
            case Shutdown():
                pass  # the process that runs the loop ends it
        return []

    def settle(self) -> list[FromEngine]:
        """Called after every step: come to rest if that was ordered and nothing has to end any more."""
        return self._tell(self.dormancy.settle())

    def step(self) -> StepOutput | None:
        """Run one step; None when there was nothing to run, and nothing to tell."""
        failed = self._arrivals.let_in() if self._arrivals.has_ready else []
        decision = self.scheduler.schedule()
        if decision is None:
            return self._only_finished(failed) if failed else None
        try:
            result = self.executor.execute(decision)
        except Exception as error:
            return self._fail(decision, error, failed)
        output = self.scheduler.update(decision, result, self._clock())
        if failed or len(self._arrivals):
            stats = self.stats(decision.num_tokens)
            return msgspec.structs.replace(output, finished=failed + output.finished, stats=stats)
        return output

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
        """The step's own requests fail; those that wait, and the engine, go on. ``finished``: who ended before it."""
        log.exception("a step of %d sequences failed", len(decision.slots))
        reason = error.message if isinstance(error, QuireError) else f"{type(error).__name__} in the model"
        return self._only_finished(finished + self.scheduler.fail(self.scheduler.handles_of(decision), reason))

    def _only_finished(self, finished: list[Finished]) -> StepOutput:
        return StepOutput(
            handles=np.empty(0, np.int64),
            token_ids=np.empty(0, np.int32),
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
