"""What this machine is said to be."""

import os

import pytest
import torch

from quire.core.errors import ConfigError
from quire.kernels import platform


def test_cpu_is_described_within_its_bounds() -> None:
    machine = platform.inspect("cpu")
    assert machine.device == torch.device("cpu")
    assert 1 <= machine.num_cores <= (os.cpu_count() or 1)
    assert 0 < machine.available_memory_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_cores_follow_the_affinity_mask() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert platform.allowed_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has the device")
def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(ConfigError, match="cuda"):
        platform.inspect("cuda")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="meta"):
        platform.inspect("meta")


def test_keeping_freed_memory_is_harmless() -> None:
    platform.keep_freed_memory()
    assert torch.ones(10_000_000).sum() == 10_000_000
