"""An engine in the caller's own process: no socket, no second process, no crossing at all."""

from contextlib import AbstractContextManager

from quire.core import signals
from quire.core.config import EngineConfig
from quire.core.messages import Done, EngineInfo, Step, ToEngine
from quire.core.step import EngineStats, StepOutput
from quire.engine.build import build_engine


class InlineClient:
    """Runs the engine whenever its owner asks for the next step. Belongs to one thread."""

    def __init__(self, config: EngineConfig) -> None:
        self._engine, self.info = build_engine(config)
        self._steps: list[StepOutput] = []
        self._hold = signals.Hold()

    info: EngineInfo

    def send(self, message: ToEngine) -> Done | None:
        """Hand over a message; a call's answer comes back at once, steps with the next ``step``."""
        done = None
        with signals.held():  # an engine that stops midway has books that do not add up
            answers = self._engine.handle(message)
        for answer in answers:
            if isinstance(answer, Step):
                self._steps.append(answer.output)
            elif isinstance(answer, Done):
                done = answer
        return done

    @property
    def is_paused(self) -> bool:
        """Whether steps compute nothing, asleep or not."""
        return self._engine.dormancy.is_paused

    @property
    def stats(self) -> EngineStats:
        return self._engine.stats()

    @property
    def has_work(self) -> bool:
        return bool(self._steps) or self._engine.has_work or self._engine.is_compiling

    def stepping(self) -> AbstractContextManager[None]:
        """In it signals interrupt no step, only what is between two."""
        return self._hold.listening()

    def step(self) -> list[StepOutput]:
        """Everything known since the last call, after running one step if there is work, or once there is."""
        steps, self._steps = self._steps, []
        if not steps and not self._engine.has_work and self._engine.is_compiling:
            self._engine.bell.wait()
        if self._engine.has_work:
            with self._hold:
                output = self._engine.step()
            if output is not None:
                steps.append(output)
        return steps
