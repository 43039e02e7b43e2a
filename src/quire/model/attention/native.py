"""Attention for recorded programs: the same addresses in every step, and pages that are tiles of a matrix product."""

from dataclasses import replace

import numpy as np
import torch

from quire.kernels.cpu.program import DTYPES
from quire.kernels.ops.int8 import SCALE_BYTES
from quire.model.attention.backend import AttentionPlan
from quire.model.attention.paged import PagedAttention, narrowed, places
from quire.model.kv import KVSpec, Shape

_SIZE_STEP = 16
"""Heads and blocks come in whole vectors of the widest kind."""


class NativeAttention(PagedAttention):
    """Plans into buffers of its own, with room for the greatest step.

    ``room``, and ``narrow_room`` for layers whose results are asked for at some tokens, are what a program is recorded
    with.
    """

    def __init__(self, block_size: int, *, max_tokens: int, max_seqs: int, max_blocks: int) -> None:
        super().__init__(block_size, torch.device("cpu"))
        self.max_tokens, self.max_seqs = max_tokens, max_seqs
        self.room = AttentionPlan(
            backend=self,
            slot_mapping=torch.zeros(max_tokens, dtype=torch.int64),
            block_tables=torch.zeros((max_seqs, max_blocks), dtype=torch.int32),
            query_starts=torch.zeros(max_seqs + 1, dtype=torch.int32),
            context_lens=torch.zeros(max_seqs, dtype=torch.int32),
        )
        self.narrow_rows = torch.zeros(max_tokens, dtype=torch.int64)
        query_starts = torch.zeros(max_seqs + 1, dtype=torch.int32)
        self.narrow_room = replace(self.room, query_starts=query_starts, rows=self.narrow_rows)
        self._slots, self._tables = self.room.slot_mapping.numpy(), self.room.block_tables.numpy()
        self._starts, self._lens = self.room.query_starts.numpy(), self.room.context_lens.numpy()

    @staticmethod
    def why_not(block_size: int, head_dim: int, dtype: torch.dtype) -> str | None:
        """What it cannot run, if it cannot."""
        if dtype not in DTYPES:
            return f"dtype {str(dtype).removeprefix('torch.')}"
        if block_size % _SIZE_STEP:
            return f"block_size {block_size}, no multiple of {_SIZE_STEP}"
        if head_dim % _SIZE_STEP:
            return f"heads of {head_dim}, no multiple of {_SIZE_STEP}"
        return None

    def supports(self, spec: KVSpec) -> str | None:
        """See AttentionBackend.supports."""
        return self.why_not(self.block_size, spec.head_dim, torch.float32)

    def kv_shapes(self, spec: KVSpec, num_blocks: int, dtype: torch.dtype) -> tuple[Shape, Shape]:
        """As ``csrc/quire.h`` says: keys [N, K, D / g, B, g], values [N, K, B / g, D, g]; g numbers fill 32 bits.

        Of int8 both are [N, K, D + SCALE_BYTES, B], whose last SCALE_BYTES rows are the scales.
        """
        heads, group = (num_blocks, spec.num_kv_heads), 4 // dtype.itemsize
        if dtype == torch.int8:
            pages = (*heads, spec.head_dim + SCALE_BYTES, self.block_size)
            return pages, pages
        keys = (*heads, spec.head_dim // group, self.block_size, group)
        return keys, (*heads, self.block_size // group, spec.head_dim, group)

    def plan(self, starts: np.ndarray, counts: np.ndarray, block_tables: np.ndarray) -> AttentionPlan:
        """See AttentionBackend.plan: fills ``room``, and returns it."""
        query_starts, slots = places(starts, counts, block_tables, self.block_size)
        num_seqs, num_blocks = block_tables.shape
        self._starts[: num_seqs + 1] = query_starts
        self._slots[: len(slots)] = slots
        self._tables[:num_seqs, :num_blocks] = block_tables
        np.add(starts, counts, out=self._lens[:num_seqs])
        return self.room

    def narrow(self, plan: AttentionPlan, rows: np.ndarray) -> AttentionPlan:
        """See AttentionBackend.narrow: fills ``narrow_room``, and returns it."""
        # What lies behind the step's own sequences is of steps before, and rises no more.
        self.narrow_room.query_starts.numpy()[:] = narrowed(self._starts, rows)
        self.narrow_rows.numpy()[: len(rows)] = rows
        return self.narrow_room
