"""Weights of 4 bits: every checkpoint's layout comes to the same numbers, and packing keeps them."""

import pytest
import torch
from torch import Tensor

from quire.kernels.ops.w4a16 import W4Numbers, awq, compressed, fuse, gptq, pack, w4a16_linear

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Nibble i of a word holds this column of it."""


def numbers(n: int, k: int, group: int, *, zeros: bool = True, seed: int = 0) -> W4Numbers:
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (n, k), generator=draw, dtype=torch.uint8)
    scales = (torch.rand(n, k // group, generator=draw) + 0.1).half()
    points = torch.randint(1, 16, (n, k // group), generator=draw, dtype=torch.uint8) if zeros else None
    return W4Numbers(codes, scales, points, None)


def values(made: W4Numbers) -> Tensor:
    repeat = made.codes.shape[1] // made.scales.shape[1]
    zeros = 8 if made.zeros is None else made.zeros.double().repeat_interleave(repeat, 1)
    return (made.codes.double() - zeros) * made.scales.double().repeat_interleave(repeat, 1)


def words(nibbles: Tensor, order: tuple[int, ...] = tuple(range(8))) -> Tensor:
    """[a, 8 b] -> [a, b] int32, nibble i being column order[i]."""
    grouped = nibbles.long().view(len(nibbles), -1, 8)
    packed = sum(grouped[..., column] << 4 * i for i, column in enumerate(order))
    assert isinstance(packed, Tensor)
    return torch.where(packed >= 2**31, packed - 2**32, packed).int()


@pytest.mark.parametrize("n", (64, 104))
@pytest.mark.parametrize("group", (32, 64, 128))
@pytest.mark.parametrize("zeros", (True, False))
def test_packing_keeps_the_numbers(n: int, group: int, zeros: bool) -> None:
    made = numbers(n, 256, group, zeros=zeros)
    assert torch.equal(pack(made).unpack().double(), values(made))


def test_awq() -> None:
    made = numbers(72, 128, 64)
    assert made.zeros is not None
    read = awq(words(made.codes.T, AWQ_ORDER), words(made.zeros.T, AWQ_ORDER), made.scales.T)
    assert torch.equal(values(read), values(made))


@pytest.mark.parametrize("is_v2", (False, True))
def test_gptq(is_v2: bool) -> None:
    made = numbers(72, 128, 64)
    assert made.zeros is not None
    stored = made.zeros if is_v2 else made.zeros - 1
    g_idx = torch.arange(128) // 64
    read = gptq(words(made.codes).T, words(stored.T), made.scales.T, g_idx, is_v2=is_v2)
    assert read.order is None
    assert torch.equal(values(read), values(made))
    symmetric = gptq(words(made.codes).T, None, made.scales.T)
    assert torch.equal(values(symmetric), values(made._replace(zeros=None)))


def test_act_order_sorts_columns_and_gathers_inputs() -> None:
    made = numbers(64, 128, 32)
    assert made.zeros is not None
    g_idx = torch.randperm(128, generator=torch.Generator().manual_seed(3)) // 32
    expected = (made.codes.double() - made.zeros.double()[:, g_idx]) * made.scales.double()[:, g_idx]
    read = gptq(words(made.codes).T, words(made.zeros.T - 1), made.scales.T, g_idx)
    assert read.order is not None
    assert torch.equal(pack(read).unpack().double(), expected)
    with pytest.raises(ValueError, match="equally"):
        gptq(words(made.codes).T, None, made.scales.T, torch.zeros(128, dtype=torch.int32))
    with pytest.raises(ValueError, match="differently"):
        fuse([read, made])


@pytest.mark.parametrize("zeros", (True, False))
def test_compressed(zeros: bool) -> None:
    made = numbers(72, 256, 64, zeros=zeros)
    points = None if made.zeros is None else words(made.zeros.T).T
    read = compressed(words(made.codes), made.scales, points)
    assert torch.equal(values(read), values(made))
    whole = compressed(words(made.codes), made.scales[:, :1])
    assert pack(whole).group_size == 128
    assert torch.equal(pack(whole).unpack().double(), values(whole))


def test_fused_parts_stand_below_each_other() -> None:
    parts = [numbers(40, 128, 64, zeros=False, seed=1), numbers(24, 128, 64, seed=2)]
    assert torch.equal(values(fuse(parts)), torch.cat([values(part) for part in parts]))


def test_sizes_without_a_layout_are_refused() -> None:
    with pytest.raises(ValueError, match="no layout"):
        pack(numbers(64, 192, 96))


@pytest.mark.parametrize("rows", (0, 1, 5))
def test_is_the_product(rows: int) -> None:
    made = pack(numbers(72, 256, 64))
    x = torch.randn(rows, 256).bfloat16()
    bias, residual = torch.randn(72).bfloat16(), torch.randn(rows, 72).bfloat16()
    y = w4a16_linear(x, made, bias, residual)
    exact = x.double() @ made.unpack().double().T + bias.double() + residual.double()
    torch.testing.assert_close(y.double(), exact, rtol=2**-8, atol=1e-3)
    if rows:
        assert torch.equal(w4a16_linear(x[-1:], made, bias, residual[-1:]), y[-1:])
