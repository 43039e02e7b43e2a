"""What this device gives today: copying, and large products of random numbers. All that follows is held against it."""

import json
from pathlib import Path

import torch
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.roofline import H200, Limits
from benchmarks.gpu.timing import measure

from quire.kernels.ops.fp8 import FP8

FILE = "limits.json"


def find(device: torch.device, place: Path, journal: Journal) -> None:
    """Measure, and write them to ``place`` for the parts that come later."""
    is_tiny = device.type != "cuda"
    bandwidth = _copy(2**20 if is_tiny else 4 * 2**30, device)
    journal.row("limits", what="copy, bytes read and written", value=bandwidth / 1e9, unit="GB/s")
    size = 64 if is_tiny else 8192
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    bf16 = 2 * size**3 / measure([lambda: a @ b.t()], device).seconds
    journal.row("limits", what=f"bfloat16 product, {size}^3, random", value=bf16 / 1e12, unit="TFLOP/s")
    fp8 = 2 * bf16
    try:
        one = torch.ones((), device=device)
        narrow_a, narrow_b = a.to(FP8), b.to(FP8)
        timing = measure([lambda: torch._scaled_mm(narrow_a, narrow_b.t(), one, one, out_dtype=torch.bfloat16)], device)
        fp8 = 2 * size**3 / timing.seconds
        journal.row("limits", what=f"e4m3 product, {size}^3, random", value=fp8 / 1e12, unit="TFLOP/s")
    except (RuntimeError, AttributeError, TypeError) as error:
        journal.row("limits", what="e4m3 product, taken for twice bfloat16", value=fp8 / 1e12, unit=str(error)[:80])
    place.write_text(json.dumps([bandwidth, bf16, fp8]))


def _copy(num_bytes: int, device: torch.device) -> float:
    source = torch.randint(-128, 128, (num_bytes,), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / measure([lambda: target.copy_(source)], device).seconds


def known(place: Path) -> Limits:
    """As they were found, or an H200's where they were not."""
    return Limits(*json.loads(place.read_text())) if place.exists() else H200
