"""One device, one process: the worker is called directly."""

from quire.core.step import ModelOutput, SchedulerOutput
from quire.engine.worker.model_runner import ModelRunner


class InlineExecutor:
    """Runs the worker in the engine's own thread."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner

    def execute(self, decision: SchedulerOutput) -> ModelOutput:
        return self._runner.execute(decision)
