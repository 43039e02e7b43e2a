"""Activations that read two halves, gate and up, and write one.

Law: an element's result depends on the element alone. torch's own silu, gelu and sigmoid break it on CPUs: what is left
over at the end of a thread's share, less than a vector, is computed by other code that rounds differently. exp, tanh
and arithmetic keep it, so the reference is built of those.
"""

import math

import torch
from torch import Tensor

from quire.kernels.ops.registry import op


@op
def silu_and_mul(x: Tensor) -> Tensor:
    """silu(gate) * up for x = [gate | up]: [T, 2F] -> [T, F], same dtype, float32 inside."""
    gate, up = x.float().chunk(2, dim=-1)
    return (gate / gate.neg().exp_().add_(1)).mul_(up).to(x.dtype)


@op
def gelu_tanh_and_mul(x: Tensor) -> Tensor:
    """gelu(gate) * up, gelu by its tanh approximation, for x = [gate | up]: [T, 2F] -> [T, F], same dtype.

    Float32 inside. Source: Hendrycks & Gimpel 2016.
    """
    gate, up = x.float().chunk(2, dim=-1)
    inner = (gate * gate * gate).mul_(0.044715).add_(gate).mul_(math.sqrt(2 / math.pi))
    return torch.tanh(inner).add_(1).mul_(0.5).mul_(gate).mul_(up).to(x.dtype)
