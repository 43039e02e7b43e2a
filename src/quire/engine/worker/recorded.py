"""A model recorded once and replayed for every step: one native call, whatever the model's depth.

Programs share their buffers' ends: the body writes hidden states, of which the heads take the rows asked for. Owns the
step's inputs at fixed addresses. Recording happens at the start; a step is array copies and two calls, or one where all
decode: recorded_decode.py.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from quire.core.step import SchedulerOutput
from quire.decoding.slots import Choice, SlotParameters
from quire.engine.worker.forward import Batch
from quire.engine.worker.recorded_decode import Inputs, RecordedDecode
from quire.engine.worker.recorded_trial import RecordedTrial
from quire.engine.worker.slot_tokens import HostTokens, Places
from quire.kernels.cpu.library import Library, Pool
from quire.kernels.cpu.program import Program, Recorded, Rows
from quire.kernels.cpu.sampling import NativeSampling
from quire.kernels.ops.rows import take_rows
from quire.model.attention.native import NativeAttention
from quire.model.context import ForwardContext
from quire.model.families.decoder import CausalLM
from quire.model.kv import KVStorage


class RecordedForward:
    """A Forward by native programs. Lives on a worker; not thread-safe."""

    def __init__(
        self,
        model: CausalLM,
        kv: KVStorage,
        attention: NativeAttention,
        slot_tokens: HostTokens,
        parameters: SlotParameters,
        library: Library,
        pool: Pool,
        *,
        max_rows: int,
    ) -> None:
        """``parameters``: the sampler's. ``max_rows``: rows of logits asked for at once.

        Raises CannotRecord if a model does more than operators.
        """
        self._attention, self._pool = attention, pool
        max_tokens, max_seqs = attention.max_tokens, attention.max_seqs
        capacity = {
            Rows.TOKENS: max_tokens,
            Rows.SEQUENCES: max_seqs,
            Rows.ASKED: max_tokens,
            Rows.SAMPLED: max_rows,
        }
        self._tokens, self._positions = (torch.zeros(max_tokens, dtype=torch.int64) for _ in range(2))
        self._rows = torch.zeros(max_rows, dtype=torch.int64)

        self.body = Program(library, capacity)
        last_plan = replace(attention.narrow_room, rows=self.body.wrap(attention.narrow_rows, Rows.ASKED))
        context = ForwardContext(self.body.wrap(self._positions, Rows.TOKENS), attention.room, last_plan, kv)
        hidden = model(self.body.wrap(self._tokens, Rows.TOKENS), context)
        assert isinstance(hidden, Recorded)

        def head(call: str) -> tuple[Program, Tensor]:
            program = Program(library, capacity)
            rows = take_rows(
                program.wrap(hidden.as_subclass(Tensor), Rows.ASKED), program.wrap(self._rows, Rows.SAMPLED)
            )
            return program, getattr(model, call)(rows).as_subclass(Tensor)

        self._hidden = hidden  # its buffer is the heads' input
        self.to_logits, self._logits = head("logits")
        self.to_likeliest, self._likeliest = head("likeliest")

        inputs = Inputs(self._tokens, self._positions, self._rows, attention)
        self._decode = RecordedDecode(self.body, pool, inputs, slot_tokens)
        self._decode.record_likeliest(self.to_likeliest, self._likeliest)
        self.trial: RecordedTrial | None = None
        """Where the vocabulary is not too large for it."""
        if self._logits.shape[1] <= NativeSampling.MAX_VOCAB_SIZE:
            self._decode.record_draws(self.to_logits, self._logits, parameters)
            self.trial = RecordedTrial(self.to_logits, pool, self._rows, self._logits, parameters)

    def advance(self, slots: np.ndarray, positions: np.ndarray, choice: Choice) -> np.ndarray | None:
        """See Forward.advance."""
        return self._decode.advance(slots, positions, choice)

    def replay(self, decision: SchedulerOutput) -> tuple[np.ndarray, Places] | None:
        """See Forward.replay. There is one for steps that only decode."""
        if not decision.is_decode:
            return None
        self._decode.run(decision.slots, decision.starts)
        return np.arange(decision.slots.size), Places(decision.slots, decision.sampled_positions)

    def run(self, batch: Batch) -> None:
        """See Forward.run."""
        num_tokens = len(batch.tokens)
        assert isinstance(batch.tokens, np.ndarray)
        self._tokens.numpy()[:num_tokens] = batch.tokens
        self._positions.numpy()[:num_tokens] = batch.positions
        plan = self._attention.plan(batch.starts, batch.counts, batch.block_tables)
        self._attention.narrow(plan, batch.asked)
        self.body.run(self._pool, tokens=num_tokens, sequences=len(batch.counts), asked=len(batch.asked))

    def logits(self, rows: np.ndarray) -> Tensor:
        """See Forward.logits."""
        self._rows.numpy()[: len(rows)] = rows
        self.to_logits.run(self._pool, sampled=len(rows))
        return self._logits[: len(rows)]

    def likeliest(self, rows: np.ndarray) -> Tensor:
        """See Forward.likeliest."""
        self._rows.numpy()[: len(rows)] = rows
        self.to_likeliest.run(self._pool, sampled=len(rows))
        return self._likeliest[: len(rows)]

    def kv_has_moved(self) -> None:
        """On a CPU it never does."""
