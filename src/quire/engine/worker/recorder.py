"""Recording work on a device, to be done again by one call."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Replay(NamedTuple):
    """Work that was recorded."""

    run: Callable[[], None]
    """Do it again."""
    result: Tensor
    """Where its result then lies."""


class Recorder(Protocol):
    """What records work on a device."""

    def record(self, work: Callable[[], Tensor]) -> Replay:
        """Run ``work``, which waits for nothing and allocates only what the device's allocator gives; record it."""
        ...


class GraphRecorder:
    """CUDA graphs that share one pool of memory: one is replayed at a time, and its result read before the next."""

    def __init__(self, device: torch.device) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def record(self, work: Callable[[], Tensor]) -> Replay:
        """See Recorder.record."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            work()  # libraries choose kernels and take their workspaces now, not while it is recorded
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            result = work()
        return Replay(graph.replay, result)


class Repeater:
    """Runs the work again: what it computes on a device without graphs, such as a CPU in tests."""

    def record(self, work: Callable[[], Tensor]) -> Replay:
        """See Recorder.record."""
        result = work()

        def again() -> None:
            result.copy_(work())

        return Replay(again, result)


def recorder_for(device: torch.device) -> Recorder:
    return GraphRecorder(device) if device.type == "cuda" else Repeater()
