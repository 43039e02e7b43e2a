"""The loop: what arrived, one step, what came of it.

Owns the scheduler and the executor, knows neither sockets nor tensors. One step is schedule, execute, update; a request
that fails in the model is ended with an error and the others go on.
"""

import logging
import time
from collections.abc import Callable

import numpy as np

from quire.core.errors import QuireError
from quire.core.messages import Abort, Add, Check, Done, FromEngine, Reset, Shutdown, Step, ToEngine
from quire.core.step import Finished, SchedulerOutput, StepOutput
from quire.engine.executor.executor import Executor
from quire.scheduling.scheduler import Scheduler

log = logging.getLogger("quire.engine")


class Engine:
    """One model's scheduler and executor, stepped from outside. ``clock`` is time.monotonic or a test's."""

    def __init__(self, scheduler: Scheduler, executor: Executor, clock: Callable[[], float] = time.monotonic) -> None:
        self.scheduler = scheduler
        self.executor = executor
        self._clock = clock

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def handle(self, message: ToEngine) -> FromEngine | None:
        """Carry out a message; what is returned goes back to the client."""
        match message:
            case Add(request):
                self.scheduler.add(request)
            case Abort(handles):
                finished = self.scheduler.abort(handles)
                return Step(self._only_finished(finished)) if finished else None
            case Reset(call):
                self.scheduler.reset_prefix_cache()
                return self._done(call)
            case Check(call):
                try:
                    self.scheduler.check()
                except AssertionError as error:
                    return self._done(call, f"KV accounting is broken: {error}")
                return self._done(call)
            case Shutdown():
                pass  # the process that runs the loop ends it
        return None

    def step(self) -> StepOutput | None:
        """Run one step; None when there was nothing to run."""
        decision = self.scheduler.schedule()
        if decision is None:
            return None
        try:
            result = self.executor.execute(decision)
        except Exception as error:
            return self._fail(decision, error)
        return self.scheduler.update(decision, result, self._clock())

    def rest(self) -> None:
        """Called when there has been nothing to do for a while: nothing may be held now, and all must add up."""
        self.scheduler.check()
        assert self.scheduler.num_held_blocks == 0, f"{self.scheduler.num_held_blocks} KV blocks leaked"

    def _fail(self, decision: SchedulerOutput, error: Exception) -> StepOutput:
        """The step's own requests fail; those that wait, and the engine, go on."""
        log.exception("a step of %d sequences failed", len(decision.slots))
        reason = error.message if isinstance(error, QuireError) else f"{type(error).__name__} in the model"
        return self._only_finished(self.scheduler.fail(self.scheduler.handles_of(decision), reason))

    def _only_finished(self, finished: list[Finished]) -> StepOutput:
        return StepOutput(
            handles=np.empty(0, np.int64),
            token_ids=np.empty(0, np.int32),
            time_s=self._clock(),
            finished=finished,
            stats=self.scheduler.stats(),
        )

    def _done(self, call: int, error: str = "") -> Done:
        return Done(
            call,
            error,
            self.scheduler.num_free_blocks,
            self.scheduler.num_cached_blocks,
            self.scheduler.num_held_blocks,
        )
