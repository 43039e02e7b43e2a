"""How much of the time a device stands still while steps run, as its own profiler saw it."""

from collections.abc import Callable

import torch
from benchmarks.gpu.devices import wait
from torch.autograd import DeviceType


def idle_share(work: Callable[[], object], device: torch.device) -> float | None:
    """The part of the time between the first and the last kernel in which none ran. None without a device.

    The profiler itself costs the host and the device something: the true share is rather smaller.
    """
    if device.type != "cuda":
        work()
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        wait(device)
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profile.events()
        if event.device_type == DeviceType.CUDA
    )
    if not spans:
        return None
    busy, reached = 0.0, spans[0][0]
    for begin, end in spans:
        busy += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return 1 - busy / (reached - spans[0][0])
