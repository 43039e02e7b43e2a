"""Whoever carries a scheduler's decision to the devices and brings back what they sampled."""

from typing import Literal, NamedTuple, Protocol

from quire.core.step import ModelOutput, SchedulerOutput

Part = Literal["weights", "kv_cache"]
"""What an executor can give back to the system, and get again."""


class Ticket(Protocol):
    """A step that was launched."""

    @property
    def is_done(self) -> bool:
        """Whether the step was over when ``launch`` returned; the next may depend on what came of it."""

    def result(self) -> ModelOutput:
        """Wait for it. Raises what the step raised."""


class Computed(NamedTuple):
    """A step that was over when its launch returned."""

    output: ModelOutput

    @property
    def is_done(self) -> bool:
        return True

    def result(self) -> ModelOutput:
        return self.output


class Executor(Protocol):
    """Inline, or (to come) over several worker processes."""

    def launch(self, decision: SchedulerOutput) -> Ticket:
        """Begin one step everywhere. Steps are computed in the order of their launches.

        While the last one is not done, the next may be launched on the plan that every sequence in it goes on.
        """

    def release(self, part: Part) -> None:
        """Give its memory back. No step may be run before ``restore``."""

    def restore(self, part: Part) -> None:
        """Have it again: the weights read anew from their files, the KV cache all zeros.

        Raises what loading a model raises, or Conflict where there is no memory now.
        """
