"""What machine this is: the only file that asks.

Answers are about this process: the cores it may use and the memory it may take, under affinity masks and control
groups, not what the box was sold with. Nothing is cached; askers keep what they are told.
"""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from quire.core.errors import ConfigError

_CGROUP = Path("/sys/fs/cgroup")
_MALLOC_TRIM_THRESHOLD, _MALLOC_MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True)
class Machine:
    """One device and the host part that feeds it."""

    device: torch.device
    num_cores: int
    """Cores this process may keep busy."""
    available_memory_bytes: int
    """What the device can still give: on a CPU, memory that is free or can be freed without swapping."""
    has_bfloat16: bool
    """Whether bfloat16 products run in hardware, so that it is faster than float32 and not only smaller."""
    computes_beside_host: bool = False
    """Whether the device has a queue of its own, so that the host may prepare a step while one is computed."""
    total_memory_bytes: int = 0
    """Of a device that is not the host: all it has."""


def inspect(device: str = "auto") -> Machine:
    """Look at this machine. ``device`` is auto, cpu, cuda or cuda:N. Raises ConfigError for one that is not here."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(f"device is {device!r}, but torch sees no CUDA device here: use --device cpu.")
        free, total = torch.cuda.mem_get_info(chosen)
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Machine(
            chosen, allowed_cores(), int(free), has_bfloat16, computes_beside_host=True, total_memory_bytes=int(total)
        )
    if chosen.type != "cpu":
        raise ConfigError(f"device is {device!r}: the engine runs on cpu and cuda.")
    return Machine(chosen, allowed_cores(), available_host_memory(), _cpu_has_bfloat16())


def allowed_cores() -> int:
    """Cores this process may keep busy: its affinity mask, cut to its control group's share of time; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for path in _own_cgroups():
        quota, _, period = (_read(path / "cpu.max") or "max 1").partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            cores = min(cores, int(quota) // int(period))
    return max(1, cores)


def available_host_memory() -> int:
    """Bytes this process can take without swapping or being killed, by the kernel's and its control group's account."""
    available = _meminfo("MemAvailable")
    if available is None:
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    for path in _own_cgroups():
        limit, used = _read(path / "memory.max"), _read(path / "memory.current")
        if limit and limit.isdigit() and used and used.isdigit():
            available = min(available, int(limit) - int(used) + _reclaimable(path))
    return max(0, available)


def keep_freed_memory() -> None:
    """Let the C library reuse freed buffers of a step in the next one, up to 512 MiB, and not return them each time.

    Returned pages come back zeroed one fault after another: attention over 500 tokens took 4 times as long. Does
    nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_MALLOC_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_MALLOC_TRIM_THRESHOLD, 512 * 2**20)


def return_freed_memory() -> None:
    """Let the system have what was freed and is kept for reuse: by glibc, by torch on a device."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def resident_bytes() -> int:
    """Host memory that this process has now; 0 where the system does not say."""
    found = _read(Path("/proc/self/statm"))
    return int(found.split()[1]) * os.sysconf("SC_PAGE_SIZE") if found else 0


def _cpu_has_bfloat16() -> bool:
    flags = next((line for line in (_read(Path("/proc/cpuinfo")) or "").splitlines() if line.startswith("flags")), "")
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags.split())


def _own_cgroups() -> list[Path]:
    """Folders of this process's control group and all above it; every limit on the way up holds."""
    for line in (_read(Path("/proc/self/cgroup")) or "").splitlines():
        if line.startswith("0::"):
            own = _CGROUP / line[3:].lstrip("/")
            return [path for path in (own, *own.parents) if path == _CGROUP or _CGROUP in path.parents]
    return []


def _reclaimable(cgroup: Path) -> int:
    """Bytes of file cache that count as used but go when asked for."""
    for line in (_read(cgroup / "memory.stat") or "").splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file" and value.isdigit():
            return int(value)
    return 0


def _meminfo(field: str) -> int | None:
    for line in (_read(Path("/proc/meminfo")) or "").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
