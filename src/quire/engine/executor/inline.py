"""One device, one process: the worker is called directly."""

import gc
import logging
from collections.abc import Callable

import torch

from quire.core.errors import Conflict
from quire.core.step import SchedulerOutput
from quire.engine.executor.executor import Part, Ticket
from quire.engine.worker.model_runner import ModelRunner
from quire.kernels import platform

log = logging.getLogger("quire.engine")


class InlineExecutor:
    """Runs the worker in the engine's own thread. ``again`` makes another one, from the files of the model."""

    def __init__(self, runner: ModelRunner, again: Callable[[], ModelRunner]) -> None:
        self._runner: ModelRunner | None = runner
        self._again = again
        self._has_kv = True

    def launch(self, decision: SchedulerOutput) -> Ticket:
        """See Executor.launch."""
        assert self._runner is not None and self._has_kv, "asleep"
        return self._runner.launch(decision)

    def release(self, part: Part) -> None:
        """See Executor.release."""
        before = platform.resident_bytes()
        if part == "weights":
            self._runner = None
            gc.collect()  # a recorded program and its operators refer to each other
        else:
            self._has_kv = False
            if self._runner is not None:
                self._runner.kv.release()
        platform.return_freed_memory()
        log.info("gave back %s: %.1f MiB", part, (before - platform.resident_bytes()) / 2**20)

    def restore(self, part: Part) -> None:
        """See Executor.restore."""
        try:
            if part == "kv_cache":
                if self._runner is not None:
                    self._runner.restore_kv()
                self._has_kv = True
                return
            self._runner = self._again()
            if not self._has_kv:
                self._runner.kv.release()
        except (torch.OutOfMemoryError, MemoryError):
            raise Conflict(f"There is no memory for {part} now: free some, and wake the engine again.") from None
