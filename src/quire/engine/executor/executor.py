"""Whoever carries a scheduler's decision to the devices and brings back what they sampled."""

from typing import Protocol

from quire.core.step import ModelOutput, SchedulerOutput


class Executor(Protocol):
    """Inline, or (to come) over several worker processes."""

    def execute(self, decision: SchedulerOutput) -> ModelOutput:
        """Run one step everywhere and wait for it."""
