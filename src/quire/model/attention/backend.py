"""What an attention backend is: it plans once for a step, then runs once for each layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from quire.kernels.ops.heads import HeadNorms
from quire.kernels.ops.rows import take_rows
from quire.model.kv import KVSpec, KVStorage, Shape


@dataclass(frozen=True)
class AttentionPlan:
    """Where a step's tokens go and what they may see. Rows are sequences, in the step's order."""

    backend: "AttentionBackend"
    """Who made it, and will run each layer by it."""
    slot_mapping: Tensor
    """[T] int64, on the device: block * B + offset for each token's own key and value."""
    block_tables: Tensor
    """[S, nb] int32, on the device."""
    query_starts: Tensor
    """[S + 1] int32, on the host: the queries of sequence i are query_starts[i] : query_starts[i + 1]."""
    context_lens: Tensor
    """[S] int32, on the host: tokens of each sequence after this step."""
    rows: Tensor | None = None
    """[R] int64, on the device: which of the step's tokens have queries, of each sequence its last ones; None: all."""

    def querying(self, x: Tensor) -> Tensor:
        """Of a row for each token, those of the tokens that have queries."""
        return x if self.rows is None else take_rows(x, self.rows)


class AttentionBackend(Protocol):
    """One way to run attention here. Lives on a worker, as long as its model."""

    def supports(self, spec: KVSpec) -> str | None:
        """Why this layer cannot run here, or None if it can."""
        ...

    def kv_shapes(self, spec: KVSpec, num_blocks: int, dtype: torch.dtype) -> tuple[Shape, Shape]:
        """How this backend lays out one layer's keys and values of ``dtype``. Dimension 0 is the block."""
        ...

    def plan(self, starts: np.ndarray, counts: np.ndarray, block_tables: np.ndarray) -> AttentionPlan:
        """Prepare a step in which sequence i computes tokens starts[i] : starts[i] + counts[i].

        starts, counts [S], counts >= 1; block_tables [S, nb] int32, wide enough for the longest sequence,
        entries past a sequence's last block any valid id.
        """
        ...

    def narrow(self, plan: AttentionPlan, rows: np.ndarray) -> AttentionPlan:
        """The plan of a layer whose results are asked for at some of the step's tokens: [R] int64, in order.

        They are the last ones of their sequences. Keys and values are stored for all tokens.
        """
        ...

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
        """Norm (if asked) and turn queries and keys of qkv [T, H + 2K, D], store keys and values, attend.

        ``rotation``: cos and sin [T, D/2]; H = num_heads. Returns [R, H, D] in qkv's dtype, of the R tokens that have
        queries.
        """
        ...


class Chunks(Protocol):
    """What the host says of a recorded step, before each replay: which sequences compute more than one token."""

    def tell(self, counts: np.ndarray, lens: np.ndarray) -> None:
        """Sequence i computes ``counts[i]`` tokens, the last of its ``lens[i]``: both [S] int32."""
        ...


class DeviceAttention(AttentionBackend, Protocol):
    """One whose plans can be made of tensors that are known to the device alone, as a recorded step needs them."""

    @property
    def waits(self) -> bool:
        """Whether it reads from the device in a step, which can then not be recorded."""
        ...

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
        """A plan of these, all on the device, as AttentionPlan has them; nothing is read here.

        ``max_query``, ``max_context``: what no sequence's new tokens and no context will ever exceed; but where there
        are ``chunks``, they say who has more than ``max_query``, and tokens behind those of the last sequence are
        nobody's and attend to nothing.
        """
        ...

    def chunks(self, num_tokens: int, max_seqs: int) -> Chunks:
        """For a plan of so many tokens of at most so many sequences."""
        ...


def kv_storage(
    backend: AttentionBackend, specs: Sequence[KVSpec], num_blocks: int, dtype: torch.dtype, device: torch.device
) -> KVStorage:
    """Pages for layers of these specs, as the backend lays them out."""
    return KVStorage([backend.kv_shapes(spec, num_blocks, dtype) for spec in specs], dtype, device)
