"""The repaired interpreter rounds, adds and multiplies as a device does: else tests beside this one mean nothing."""

from typing import Any

import pytest
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction


def _copy(x, out, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.arange(0, SIZE)
    tl.store(out + place, tl.load(x + place).to(out.dtype.element_ty))


def _arithmetic(x, y, out, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.arange(0, SIZE)
    a, b = tl.load(x + place), tl.load(y + place)
    tl.store(out + place, a + b)
    tl.store(out + SIZE + place, a * b)
    tl.store(out + 2 * SIZE + place, tl.where(a < b, a, b))
    tl.store(out + 3 * SIZE + place, -a)


def _product(x, y, out, count, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    total = tl.zeros((SIZE, SIZE), tl.float32)
    for _ in range(tl.load(count)):
        total = tl.dot(tl.load(x + place), tl.load(y + place), total)
    tl.store(out + place, total)


def run(kernel: Any, *args: Any, **kwargs: Any) -> None:
    InterpretedFunction(kernel)[(1,)](*args, **kwargs)


def awkward(size: int) -> Tensor:
    """Ties, carries into the exponent, denormals, the largest, and numbers of every magnitude."""
    bits = torch.randint(0, 2**32, (size,), dtype=torch.int64).to(torch.int32)
    bits[: size // 4] = bits[: size // 4] & ~0xFFFF | 0x8000
    bits[size // 4 : size // 2] |= 0x7FFFFF
    x = bits.view(torch.float32)
    return torch.where(x.isfinite(), x, 1.0)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_numbers_are_rounded_to_the_nearest(dtype: torch.dtype) -> None:
    x = awkward(1024)
    x[512:] = torch.randn(512)
    out = torch.empty(1024, dtype=dtype)
    run(_copy, x, out, SIZE=1024)
    assert torch.equal(out, x.to(dtype))
    back = torch.empty(1024)
    run(_copy, out, back, SIZE=1024)
    assert torch.equal(back, out.float())


@pytest.mark.parametrize("source", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("dtype", (torch.float8_e4m3fn, torch.float8_e5m2))
def test_numbers_of_8_bits_are_rounded_and_saturate(dtype: torch.dtype, source: torch.dtype) -> None:
    limit = torch.finfo(dtype).max
    x = torch.cat((torch.randn(500) * 100, torch.randn(500) / 100, torch.tensor([limit, -limit, 3e4, -1e5] * 6)))
    x = x.to(source)
    out = torch.empty(1024, dtype=dtype)
    run(_copy, x, out, SIZE=1024)
    assert torch.equal(out.float(), x.float().clamp(-limit, limit).to(dtype).float())


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float32))
def test_arithmetic_is_that_of_the_numbers(dtype: torch.dtype) -> None:
    x, y = torch.randn(2, 64).to(dtype)
    out = torch.empty(4, 64, dtype=dtype)
    run(_arithmetic, x, y, out, SIZE=64)
    assert torch.equal(out, torch.stack((x + y, x * y, torch.minimum(x, y), -x)))


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float8_e4m3fn))
def test_products_are_those_of_the_numbers(dtype: torch.dtype) -> None:
    """In a loop whose length is a number in memory, too."""
    x, y = torch.randn(2, 16, 16).to(dtype)
    out = torch.empty(16, 16)
    run(_product, x, y, out, torch.tensor([3], dtype=torch.int32), SIZE=16)
    torch.testing.assert_close(out, 3 * x.float() @ y.float(), rtol=1e-4, atol=1e-4)
