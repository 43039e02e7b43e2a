"""Attention on a CUDA device, by Triton's kernels: nothing in a step waits for the device.

Owns the memory for partial sums, which stays where it is as long as the model, so that recorded steps may use it. What
a step planned on the host says of itself crosses in one copy, from pinned memory. A plan may also be made of tensors
that only the device knows: then it is part of a recorded step, and so are the counts that its layers share.

Law: what is launched, and how large, follows from what the host knows: the bounds it was given, and, in a step that it
planned itself, numbers of tokens and lengths.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from quire.kernels.ops.heads import HeadNorms, store_heads
from quire.kernels.triton.attention import (
    MOST_TOKEN_ROWS,
    Cache,
    Scratch,
    attend_chunks,
    attend_tokens,
    chunk_rows,
    chunk_tiles,
    count_units,
    programs_of,
)
from quire.model.attention.backend import AttentionPlan, Chunks
from quire.model.attention.paged import PagedAttention, narrowed, places
from quire.model.kv import KVSpec, KVStorage

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_ALIGNED = 4
"""Of 32-bit numbers: kernels are compiled for addresses that are multiples of 16."""


@dataclass(frozen=True, kw_only=True)
class CudaPlan(AttentionPlan):
    """All tensors on the device."""

    max_query: int
    """Sequences of at most so many queries are split over their context; none are if it is 0."""
    counts: np.ndarray | None = None
    """[S] queries of each sequence, where the host knows them, and ``lens`` [S] int32."""
    lens: np.ndarray | None = None
    tiles: dict[int, Tensor] = field(default_factory=dict)
    """Tiles of longer chunks, by the number of queries in one."""
    chunks: "CudaChunks | None" = None
    """Who has them, in a recorded step."""
    units: dict[int | None, Tensor] = field(default_factory=dict)
    """Segments before each sequence, by window: counted by the first layer that needs them."""


class CudaChunks:
    """Tiles of a recorded step's chunks, at fixed places: as many as there can be, those that are not being none."""

    def __init__(self, device: torch.device, num_tokens: int, max_seqs: int) -> None:
        self._device, self._num_tokens, self._max_seqs = device, num_tokens, max_seqs
        self._tiles: dict[int, Tensor] = {}

    def tiles(self, rows: int) -> Tensor:
        """[n, 2] int32, of ``rows`` queries each. A size is asked for first when nothing is being recorded yet."""
        if rows not in self._tiles:
            most = self._num_tokens // rows + min(self._max_seqs, self._num_tokens // 2)
            self._tiles[rows] = torch.full((most, 2), -1, dtype=torch.int32, device=self._device)
        return self._tiles[rows]

    def tell(self, counts: np.ndarray, lens: np.ndarray) -> None:
        """See Chunks.tell."""
        for rows, there in self._tiles.items():
            found = chunk_tiles(counts, lens, rows)
            tiles = np.full(there.shape, -1, np.int32)
            tiles[: len(found)] = found
            there.copy_(_pinned(torch.from_numpy(tiles), self._device), non_blocking=True)


class CudaAttention(PagedAttention):
    """The backend for a CUDA device; or for a CPU, where Triton interprets its kernels."""

    def __init__(self, block_size: int, device: torch.device, *, max_context: int) -> None:
        """``max_context``: of any sequence, ever."""
        super().__init__(block_size, device)
        self._max_context = max_context
        self._num_programs = programs_of(device)
        self._scratches: dict[tuple[int, int], Scratch] = {}

    @staticmethod
    def why_not(specs: Sequence[KVSpec], dtype: torch.dtype) -> str | None:
        """What it cannot run of these layers, with keys and values of ``dtype``."""
        if dtype not in DTYPES:
            return f"keys and values of {str(dtype).removeprefix('torch.')}"
        for spec in specs:
            if spec.head_dim % 16 or not 16 <= spec.head_dim <= 256:
                return f"heads of {spec.head_dim}, no multiple of 16 from 16 to 256"
        return None

    @property
    def waits(self) -> bool:
        """See DeviceAttention.waits."""
        return False

    def supports(self, spec: KVSpec) -> str | None:
        """See AttentionBackend.supports."""
        return self.why_not([spec], DTYPES[0])

    def plan(self, starts: np.ndarray, counts: np.ndarray, block_tables: np.ndarray) -> CudaPlan:
        """See AttentionBackend.plan."""
        query_starts, slots = places(starts, counts, block_tables, self.block_size)
        lens = (starts + counts).astype(np.int32)
        parts = self._cross(slots.view(np.int32), query_starts, lens, block_tables.astype(np.int32).ravel())
        return CudaPlan(
            backend=self,
            slot_mapping=parts[0].view(torch.int64),
            query_starts=parts[1],
            context_lens=parts[2],
            block_tables=parts[3].view(block_tables.shape),
            max_query=int((counts == 1).any()),
            counts=np.asarray(counts),
            lens=lens,
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
    ) -> CudaPlan:
        """See DeviceAttention.plan_on_device."""
        assert max_context <= self._max_context and (chunks is None or isinstance(chunks, CudaChunks))
        tensors = (slot_mapping, block_tables, query_starts, context_lens)
        return CudaPlan(self, *tensors, max_query=max_query, chunks=chunks)

    def chunks(self, num_tokens: int, max_seqs: int) -> CudaChunks:
        """See DeviceAttention.chunks."""
        return CudaChunks(self._device, num_tokens, max_seqs)

    def narrow(self, plan: AttentionPlan, rows: np.ndarray) -> CudaPlan:
        """See AttentionBackend.narrow."""
        assert isinstance(plan, CudaPlan) and plan.counts is not None
        starts = np.zeros(len(plan.counts) + 1, np.int32)
        np.cumsum(plan.counts, out=starts[1:])
        starts = narrowed(starts, rows)
        counts = np.diff(starts)
        asked, query_starts = self._cross(rows.astype(np.int64).view(np.int32), starts)
        return replace(
            plan,
            rows=asked.view(torch.int64),
            query_starts=query_starts,
            max_query=int((counts == 1).any()),
            counts=counts,
            tiles={},
            units={},
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
        assert isinstance(plan, CudaPlan)
        keys, values = kv.layers[layer]
        q = plan.querying(store_heads(qkv, num_heads, norms, *rotation, keys, values, plan.slot_mapping))
        # What fills up a recorded step is no sequence's, and none of the kernels writes its rows.
        out = torch.empty_like(q) if plan.chunks is None else torch.zeros_like(q)
        cache = Cache(keys, values, scale, sliding_window, softcap)
        group = num_heads // keys.shape[1]
        where = (plan.block_tables, plan.query_starts, plan.context_lens)
        tiles = self._tiles(plan, chunk_rows(group, q.shape[2], q.dtype))
        if tiles is not None:
            attend_chunks(q, cache, *where, tiles, out)
        if plan.max_query:
            attend_tokens(
                q,
                cache,
                *where,
                self._units(plan, sliding_window),
                self._scratch(group * plan.max_query, q.shape[2]),
                out,
                tokens=plan.max_query,
                max_context=self._max_context,
            )
        return out

    def _tiles(self, plan: CudaPlan, rows: int) -> Tensor | None:
        """Tiles of ``rows`` queries of the step's chunks; None if it has none, or cannot have any."""
        if plan.chunks is not None:
            return plan.chunks.tiles(rows)
        if plan.counts is None or plan.lens is None or plan.counts.max(initial=0) <= 1:
            return None
        if rows not in plan.tiles:
            tiles = chunk_tiles(plan.counts, plan.lens, rows)
            plan.tiles[rows] = self._cross(tiles.ravel())[0].view(tiles.shape)
        return plan.tiles[rows]

    def _units(self, plan: CudaPlan, window: int | None) -> Tensor:
        if window not in plan.units:
            units = torch.empty_like(plan.query_starts)
            count_units(plan.query_starts, plan.context_lens, units, tokens=plan.max_query, window=window)
            plan.units[window] = units
        return plan.units[window]

    def _scratch(self, rows: int, head_dim: int) -> Scratch:
        assert rows <= MOST_TOKEN_ROWS
        if (rows, head_dim) not in self._scratches:
            self._scratches[rows, head_dim] = Scratch.make(
                self._device, self._num_programs, rows=rows, head_dim=head_dim, max_context=self._max_context
            )
        return self._scratches[rows, head_dim]

    def _cross(self, *arrays: np.ndarray) -> list[Tensor]:
        """Flat int32 arrays, to the device in one copy, which is on its way when this returns."""
        ends = np.cumsum([-(-len(array) // _ALIGNED) * _ALIGNED for array in arrays])
        on_cpu = self._device.type == "cpu"
        # Pinned memory is torch's to give again, once the copy is over.
        host = torch.empty(int(ends[-1]), dtype=torch.int32, pin_memory=not on_cpu)
        flat = host.numpy()
        begins = (0, *ends[:-1].tolist())
        for array, begin in zip(arrays, begins, strict=True):
            flat[begin : begin + len(array)] = array
        there = host if on_cpu else host.to(self._device, non_blocking=True)
        return [there[begin : begin + len(array)] for array, begin in zip(arrays, begins, strict=True)]


def _pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """Where a device can fetch it from while this process goes on."""
    return tensor if device.type == "cpu" else tensor.pin_memory()
