"""Times what a device does: recorded as a graph where that can be, so that the host's launches are not in it.

Inputs are taken in turns from as many copies as the device's cache does not hold. Law: nothing is timed before it ran
once, and a figure is the median of several.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from benchmarks.gpu.devices import wait

COLD_BYTES = 256 * 2**20
"""Several times an H200's cache."""
MOST_COPIES = 16
_RECORDED_CALLS = 20
_REPEATS = 7


class Timing(NamedTuple):
    """Of one call."""

    seconds: float
    is_recorded: bool
    """Whether the device alone was timed; otherwise launches may have been waited for."""


def num_copies(num_bytes: float) -> int:
    """Of inputs of so many bytes."""
    return max(1, min(MOST_COPIES, -(-COLD_BYTES // max(1, int(num_bytes)))))


@torch.inference_mode()
def measure(calls: Sequence[Callable[[], object]], device: torch.device) -> Timing:
    """``calls`` do the same on inputs of their own."""
    for call in calls:
        call()
    wait(device)
    if device.type != "cuda":
        return Timing(statistics.median(_on_host(calls[0]) for _ in range(3)), False)
    count = max(len(calls), _RECORDED_CALLS)
    turns = [calls[i % len(calls)] for i in range(count)]
    try:
        graph = _record(turns)
    except RuntimeError:
        torch.cuda.synchronize(device)
        return Timing(_median(lambda: [call() for call in turns]) / count, False)
    return Timing(_median(graph.replay) / count, True)


def _record(turns: Sequence[Callable[[], object]]) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in turns:
            call()
    graph.replay()
    torch.cuda.synchronize()
    return graph


def _median(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def _on_host(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
