"""Names the launches that must do well on a real device, so that they can be compiled, and looked at, without one.

A file of kernels exports ``VARIANTS``. Each calls a launcher on tensors that have a shape and no data; what it would
have launched, with its own tiles, warps and stages and with all that Triton specializes by, is what gets compiled.
Law: what is compiled ahead is what runs, since the launcher says it in both cases. (And a launcher that looked at a
tensor's value, which would stall a stream and break a captured graph, fails here.)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Variant:
    """One call of a launcher at a size of production."""

    name: str
    """Unique in its file: "T64 hidden 4096 bf16"."""
    call: Callable[[], object]
    """Calls the body on ``blank`` tensors; every kernel it launches is compiled."""
    expects: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By kernel: machine instructions, and how many there are at least. "LDG.128" is any LDG with 128 among its
    modifiers."""


def blank(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A contiguous tensor without data, taken to be aligned as an allocator aligns."""
    return torch.empty(shape, dtype=dtype, device="meta")
