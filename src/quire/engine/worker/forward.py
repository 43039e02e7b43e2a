"""Running a model for one step: the two things a model runner may have behind it.

Law: what ``logits`` and ``likeliest`` return may be overwritten by the next call; rows are those asked for by the last
``run`` or ``replay``.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from quire.core.step import SchedulerOutput
from quire.decoding.slots import Choice
from quire.engine.worker.slot_tokens import Places
from quire.model.attention.backend import AttentionBackend
from quire.model.context import ForwardContext
from quire.model.families.decoder import CausalLM
from quire.model.kv import KVStorage


class Batch(NamedTuple):
    """What a step computes. Of sequence i: its next counts[i] tokens, from position starts[i] on."""

    tokens: np.ndarray | Tensor
    """[T] int32, sequence after sequence; a tensor where they are known to the device alone."""
    positions: np.ndarray
    """[T] int64."""
    starts: np.ndarray
    """[S]."""
    counts: np.ndarray
    """[S], each at least 1."""
    block_tables: np.ndarray
    """[S, nb], as AttentionBackend.plan takes them."""
    asked: np.ndarray
    """[R] int64, rising: whose hidden states are asked for, among the tokens; of each sequence the last ones."""


class Forward(Protocol):
    """A model, its KV storage and its attention, as one thing that computes steps."""

    def advance(self, slots: np.ndarray, positions: np.ndarray, choice: Choice) -> np.ndarray | Tensor | None:
        """Compute the tokens at ``positions`` [S] of ``slots`` [S], their last ones, and choose those behind them.

        Returns these, [S] int32, NO_TOKEN where a row is not sound: an array if that is over, else a tensor, which the
        next call may overwrite. They are written where the next step finds them. Of slots that are led, they are what
        Sampler.lead begins with. None where there is no such short way; then nothing was done.
        """
        ...

    def run(self, batch: Batch) -> None:
        """Compute the hidden states that are asked for, and write all tokens' KV."""
        ...

    def replay(self, decision: SchedulerOutput) -> tuple[np.ndarray, Places] | None:
        """Compute what was decided, if there is a short way; None where ``run`` has to do it.

        Returns, for the R sequences that sample, their rows [R] among those asked for, and where their tokens will be.
        """
        ...

    def logits(self, rows: np.ndarray) -> Tensor:
        """Logits [n, V] float32 of rows [n] of those asked for. The caller may change them."""
        ...

    def likeliest(self, rows: np.ndarray) -> Tensor:
        """The greatest logit of each row: [n] int32, the lowest id among equals, -1 where a row is not sound."""
        ...

    def kv_has_moved(self) -> None:
        """The KV storage's tensors lie elsewhere now: what was recorded over them is recorded again."""
        ...


class EagerForward:
    """Calls the model, operator by operator."""

    def __init__(self, model: CausalLM, kv: KVStorage, attention: AttentionBackend, device: torch.device) -> None:
        self._model = model
        self._kv = kv
        self._attention = attention
        self._device = device
        self._hidden: Tensor | None = None

    def run(self, batch: Batch) -> None:
        """See Forward.run."""
        plan = self._attention.plan(batch.starts, batch.counts, batch.block_tables)
        last_plan = self._attention.narrow(plan, batch.asked)
        context = ForwardContext(torch.from_numpy(batch.positions).to(self._device), plan, last_plan, self._kv)
        tokens = batch.tokens if isinstance(batch.tokens, Tensor) else torch.from_numpy(batch.tokens)
        self._hidden = self._model(tokens.to(self._device, torch.int64), context)

    def advance(self, slots: np.ndarray, positions: np.ndarray, choice: Choice) -> None:
        """There is no short way."""
        return None

    def replay(self, decision: SchedulerOutput) -> None:
        """There is none."""
        return None

    def logits(self, rows: np.ndarray) -> Tensor:
        """See Forward.logits."""
        return self._model.logits(self._rows(rows))

    def likeliest(self, rows: np.ndarray) -> Tensor:
        """See Forward.likeliest."""
        return self._model.likeliest(self._rows(rows))

    def kv_has_moved(self) -> None:
        """It reads the storage anew in every step."""

    def _rows(self, rows: np.ndarray) -> Tensor:
        assert self._hidden is not None
        return self._hidden[torch.from_numpy(rows.astype(np.int64)).to(self._device)]
