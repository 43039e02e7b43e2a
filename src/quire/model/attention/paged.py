"""Attention over paged KV by the operators, on any device."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from quire.kernels.ops.attention import paged_attention
from quire.kernels.ops.heads import HeadNorms, store_heads
from quire.kernels.ops.int8 import SCALE_BYTES
from quire.model.attention.backend import AttentionPlan, Chunks
from quire.model.kv import KVSpec, KVStorage, Shape


class PagedAttention:
    """The backend that is always there. Holds no state of its own but where it runs."""

    def __init__(self, block_size: int, device: torch.device) -> None:
        self.block_size = block_size
        self._device = device

    @property
    def waits(self) -> bool:
        """See DeviceAttention.waits. The operators' references look at lengths."""
        return self._device.type != "cpu"

    def supports(self, spec: KVSpec) -> str | None:
        """It can run every layer there is."""
        return None

    def kv_shapes(self, spec: KVSpec, num_blocks: int, dtype: torch.dtype) -> tuple[Shape, Shape]:
        """Both [N, K, B, D], or [N, K, B, D + SCALE_BYTES] of int8."""
        width = spec.head_dim + (SCALE_BYTES if dtype == torch.int8 else 0)
        shape = (num_blocks, spec.num_kv_heads, self.block_size, width)
        return shape, shape

    def plan(self, starts: np.ndarray, counts: np.ndarray, block_tables: np.ndarray) -> AttentionPlan:
        """See AttentionBackend.plan. Array operations only: nothing here loops over sequences."""
        query_starts, slots = places(starts, counts, block_tables, self.block_size)
        return AttentionPlan(
            backend=self,
            slot_mapping=torch.from_numpy(slots).to(self._device),
            block_tables=torch.from_numpy(block_tables.astype(np.int32)).to(self._device),
            query_starts=torch.from_numpy(query_starts),
            context_lens=torch.from_numpy((starts + counts).astype(np.int32)),
        )

    def plan_on_device(
        self,
        *,
        slot_mapping: Tensor,
        block_tables: Tensor,
        query_starts: Tensor,
        context_lens: Tensor,
        max_query: int,
        max_context: int,
        chunks: Chunks | None = None,
    ) -> AttentionPlan:
        """See DeviceAttention.plan_on_device."""
        return AttentionPlan(self, slot_mapping, block_tables, query_starts, context_lens)

    def chunks(self, num_tokens: int, max_seqs: int) -> Chunks:
        """See DeviceAttention.chunks."""
        return _NoChunks()

    def narrow(self, plan: AttentionPlan, rows: np.ndarray) -> AttentionPlan:
        """See AttentionBackend.narrow."""
        return replace(
            plan,
            query_starts=torch.from_numpy(narrowed(plan.query_starts.numpy(), rows)),
            rows=torch.from_numpy(rows).to(self._device),
        )

    def run(
        self,
        layer: int,
        qkv: Tensor,
        norms: HeadNorms | None,
        rotation: tuple[Tensor, Tensor],
        plan: AttentionPlan,
        kv: KVStorage,
        *,
        num_heads: int,
        scale: float,
        sliding_window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """See AttentionBackend.run."""
        key_cache, value_cache = kv.layers[layer]
        q = store_heads(qkv, num_heads, norms, *rotation, key_cache, value_cache, plan.slot_mapping)
        return paged_attention(
            plan.querying(q),
            key_cache,
            value_cache,
            plan.block_tables,
            plan.query_starts,
            plan.context_lens,
            scale=scale,
            sliding_window=sliding_window,
            softcap=softcap,
        )


class _NoChunks:
    def tell(self, counts: np.ndarray, lens: np.ndarray) -> None:
        """Nothing: the operators look at a plan's own lengths."""


def places(
    starts: np.ndarray, counts: np.ndarray, block_tables: np.ndarray, block_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where a step's tokens lie: query_starts [S + 1] int32, and the slot of each token, [T] int64."""
    query_starts = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=query_starts[1:])
    if len(counts) == query_starts[-1]:  # one token each
        rows, positions = np.arange(len(counts)), starts
    else:
        rows = np.repeat(np.arange(len(counts)), counts)
        positions = np.arange(len(rows)) + (starts - query_starts[:-1])[rows]
    slots = block_tables[rows, positions // block_size].astype(np.int64) * block_size
    slots += positions % block_size
    return query_starts, slots


def narrowed(query_starts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[S + 1] int32: how many of ``rows`` [R], which rise, come before each start."""
    return np.searchsorted(rows, query_starts).astype(np.int32)
