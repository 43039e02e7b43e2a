"""A Forward for a device with a queue: steps are replayed where they were recorded.

Others go operator by operator: those of so many tokens that the device has enough to do for the host to stay ahead, and
those in which prompts are scored.
"""

import numpy as np
import torch
from torch import Tensor

from quire.core.step import SchedulerOutput
from quire.decoding.slots import Choice
from quire.engine.worker.forward import Batch, EagerForward
from quire.engine.worker.recorded_steps import DecodeSteps, MixedSteps, Parts
from quire.engine.worker.recorder import Recorder
from quire.engine.worker.slot_tokens import Places, to_device


class GraphedForward:
    """Replays steps, and leaves others to the eager one. Not thread-safe."""

    def __init__(self, eager: EagerForward, parts: Parts, recorder: Recorder) -> None:
        """Records what will be replayed."""
        self._eager, self._parts, self._recorder = eager, parts, recorder
        self._decodes, self._mixed = DecodeSteps(parts), MixedSteps(parts)
        self._hidden: Tensor | None = None  # of the last step, if it was replayed
        self._record()

    @torch.inference_mode()
    def advance(self, slots: np.ndarray, positions: np.ndarray, choice: Choice) -> Tensor | None:
        """See Forward.advance."""
        if choice is not Choice.LIKELIEST:
            return None
        self._decodes.replay(slots, positions)
        return self._decodes.likeliest()

    def replay(self, decision: SchedulerOutput) -> tuple[np.ndarray, Places] | None:
        """See Forward.replay."""
        if decision.is_decode:
            cohort = self._decodes.replay(decision.slots, decision.starts)
            self._hidden = cohort.hidden
            return cohort.rows, cohort.places
        if decision.num_tokens > self._mixed.most:
            return None
        self._decodes.forget()
        self._hidden = self._mixed.replay(decision.slots, decision.starts, decision.counts)
        places = self._parts.tokens.locate(decision.sampled_slots, decision.sampled_positions)
        return (np.cumsum(decision.counts) - 1)[decision.samples], places

    def run(self, batch: Batch) -> None:
        """See Forward.run."""
        self._hidden = None
        self._decodes.forget()
        self._eager.run(batch)

    def logits(self, rows: np.ndarray) -> Tensor:
        """See Forward.logits."""
        return self._eager.logits(rows) if self._hidden is None else self._parts.model.logits(self._rows(rows))

    def likeliest(self, rows: np.ndarray) -> Tensor:
        """See Forward.likeliest."""
        return self._eager.likeliest(rows) if self._hidden is None else self._parts.model.likeliest(self._rows(rows))

    def kv_has_moved(self) -> None:
        """See Forward.kv_has_moved."""
        self._record()

    @torch.inference_mode()
    def _record(self) -> None:
        for steps in (self._mixed, self._decodes):  # the larger ones first: the others find room in their memory
            steps.record(self._recorder)

    def _rows(self, rows: np.ndarray) -> Tensor:
        assert self._hidden is not None
        if len(rows) == len(self._hidden):
            return self._hidden
        return self._hidden[to_device(rows, self._parts.tokens.device)]
