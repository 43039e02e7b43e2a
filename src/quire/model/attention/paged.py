"""Attention over paged KV by the operators, on any device."""

import numpy as np
import torch
from torch import Tensor

from quire.kernels.ops.attention import paged_attention, write_kv
from quire.model.attention.backend import AttentionPlan
from quire.model.kv import KVSpec, KVStorage


class PagedAttention:
    """The backend that is always there. Holds no state of its own but where it runs."""

    def __init__(self, block_size: int, device: torch.device) -> None:
        self._block_size = block_size
        self._device = device

    def supports(self, spec: KVSpec) -> str | None:
        """It can run every layer there is."""
        return None

    def plan(self, starts: np.ndarray, counts: np.ndarray, block_tables: np.ndarray) -> AttentionPlan:
        """See AttentionBackend.plan. Array operations only: nothing here loops over sequences."""
        query_starts = np.zeros(len(counts) + 1, np.int32)
        np.cumsum(counts, out=query_starts[1:])
        rows = np.repeat(np.arange(len(counts)), counts)
        positions = np.arange(len(rows)) + (starts - query_starts[:-1])[rows]
        slots = block_tables[rows, positions // self._block_size].astype(np.int64) * self._block_size
        slots += positions % self._block_size
        return AttentionPlan(
            backend=self,
            slot_mapping=torch.from_numpy(slots).to(self._device),
            block_tables=torch.from_numpy(block_tables.astype(np.int32)).to(self._device),
            query_starts=torch.from_numpy(query_starts),
            context_lens=torch.from_numpy((starts + counts).astype(np.int32)),
        )

    def run(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        plan: AttentionPlan,
        kv: KVStorage,
        *,
        scale: float,
        sliding_window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """See AttentionBackend.run."""
        key_cache, value_cache = kv.layers[layer]
        write_kv(k, v, key_cache, value_cache, plan.slot_mapping)
        return paged_attention(
            q,
            key_cache,
            value_cache,
            plan.block_tables,
            plan.query_starts,
            plan.context_lens,
            scale=scale,
            sliding_window=sliding_window,
            softcap=softcap,
        )
