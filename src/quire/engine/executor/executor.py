"""Whoever carries a scheduler's decision to the devices and brings back what they sampled."""

from typing import Literal, Protocol

from quire.core.step import ModelOutput, SchedulerOutput

Part = Literal["weights", "kv_cache"]
"""What an executor can give back to the system, and get again."""


class Executor(Protocol):
    """Inline, or (to come) over several worker processes."""

    def execute(self, decision: SchedulerOutput) -> ModelOutput:
        """Run one step everywhere and wait for it."""

    def release(self, part: Part) -> None:
        """Give its memory back. No step may be run before ``restore``."""

    def restore(self, part: Part) -> None:
        """Have it again: the weights read anew from their files, the KV cache all zeros.

        Raises what loading a model raises, or Conflict where there is no memory now.
        """
