"""Decode steps recorded once for each number of sequences, and replayed by one call: for a device with a queue.

A recorded step reads slots and positions from fixed places, and finds everything else on the device: the tokens chosen
by the step before, the block tables, where keys and values go. Steps in which anyone computes more than one token go
operator by operator; the device has enough to do in them for the host to stay ahead.

Law: a row's results do not depend on the rows that fill up a recorded step; those belong to nobody, and write to a
block of their own.
"""

from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from quire.engine.worker.forward import Batch, EagerForward
from quire.engine.worker.slot_tokens import DeviceTokens, Places, to_device
from quire.model.attention.backend import DeviceAttention
from quire.model.context import ForwardContext
from quire.model.families.decoder import CausalLM
from quire.model.kv import KVStorage


def bucket_sizes(most: int) -> list[int]:
    """Numbers of sequences for which steps are recorded: powers of two to 16, then by 16 to 256, then by 64."""
    sizes = [1, 2, 4, 8, *range(16, 257, 16), *range(320, most + 1, 64)]
    return [*(size for size in sizes if size < most), most]


class Recorder(Protocol):
    """What records work on a device."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Run ``work``, which waits for nothing and allocates only what the device's allocator gives; record it.

        Returns what does it again, and the tensor in which its result then lies.
        """
        ...


class GraphRecorder:
    """CUDA graphs that share one pool of memory: one is replayed at a time, and its result read before the next."""

    def __init__(self, device: torch.device) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """See Recorder.record."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            work()  # libraries choose kernels and take their workspaces now, not while it is recorded
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            result = work()
        return graph.replay, result


class Repeater:
    """Runs the work again: what it computes on a device without graphs, such as a CPU in tests."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """See Recorder.record."""
        result = work()

        def again() -> None:
            result.copy_(work())

        return again, result


def recorder_for(device: torch.device) -> Recorder:
    return GraphRecorder(device) if device.type == "cuda" else Repeater()


class GraphedForward:
    """A Forward that replays decode steps, and leaves others to the eager one. Not thread-safe."""

    def __init__(
        self,
        eager: EagerForward,
        model: CausalLM,
        kv: KVStorage,
        attention: DeviceAttention,
        tokens: DeviceTokens,
        recorder: Recorder,
        *,
        max_num_seqs: int,
        max_model_len: int,
        block_size: int,
    ) -> None:
        """Records all steps there can be. ``attention`` plans from tensors."""
        self._eager, self._model, self._kv, self._attention, self._tokens = eager, model, kv, attention, tokens
        self._max_model_len, self._block_size = max_model_len, block_size
        self._sizes = bucket_sizes(max_num_seqs)
        device = tokens.device
        self._inputs = torch.zeros((2, max_num_seqs), dtype=torch.int64, device=device)  # slots, positions
        self._inputs[0] = tokens.nowhere
        self._next = torch.zeros(max_num_seqs, dtype=torch.int64, device=device)
        self._query_starts = torch.arange(max_num_seqs + 1, dtype=torch.int32, device=device)
        self._hidden: Tensor | None = None  # of the last step, if it was replayed
        self._recorder = recorder
        self._replays = self._record()

    def run(self, batch: Batch) -> None:
        """See Forward.run."""
        self._hidden = None
        self._eager.run(batch)

    def decode(self, slots: np.ndarray, positions: np.ndarray) -> Places:
        """See Forward.decode."""
        count = len(slots)
        place = bisect_left(self._sizes, count)
        size = self._sizes[place]
        inputs = np.zeros((2, size), np.int64)
        inputs[0] = self._tokens.nowhere
        inputs[:, :count] = slots, positions
        self._inputs[:, :size].copy_(to_device(inputs, self._tokens.device))
        replay, hidden = self._replays[place]
        replay()
        self._hidden = hidden[:count]
        return Places(self._inputs[0, :count], self._next[:count])

    def logits(self, rows: np.ndarray) -> Tensor:
        """See Forward.logits."""
        return self._eager.logits(rows) if self._hidden is None else self._model.logits(self._rows(rows))

    def likeliest(self, rows: np.ndarray) -> Tensor:
        """See Forward.likeliest."""
        return self._eager.likeliest(rows) if self._hidden is None else self._model.likeliest(self._rows(rows))

    def kv_has_moved(self) -> None:
        """See Forward.kv_has_moved."""
        self._replays = []  # their memory goes to those that come
        self._replays = self._record()

    @torch.inference_mode()
    def _record(self) -> list[tuple[Callable[[], None], Tensor]]:
        """A step of each size, the largest first: the others find room in its memory."""
        recorded = {size: self._recorder.record(partial(self._decode, size)) for size in reversed(self._sizes)}
        return [recorded[size] for size in self._sizes]

    def _rows(self, rows: np.ndarray) -> Tensor:
        assert self._hidden is not None
        if len(rows) == len(self._hidden):
            return self._hidden
        return self._hidden[to_device(rows, self._tokens.device)]

    def _decode(self, size: int) -> Tensor:
        """One token of each of ``size`` sequences: hidden states [size, E]."""
        slots, positions = self._inputs[:, :size]
        torch.add(positions, 1, out=self._next[:size])
        tables = self._tokens.block_tables.index_select(0, slots)
        blocks = tables.gather(1, (positions // self._block_size)[:, None]).squeeze(1).long()
        plan = self._attention.plan_on_device(
            slot_mapping=blocks * self._block_size + positions % self._block_size,
            block_tables=tables,
            query_starts=self._query_starts[: size + 1],
            context_lens=self._next[:size].int(),
            max_query=1,
            max_context=self._max_model_len,
        )
        context = ForwardContext(positions, plan, plan, self._kv)
        return self._model(self._tokens.read(slots, positions).long(), context)
