"""Paged attention: right against a plain softmax in float64, and the same bits on every road."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from quire.kernels.ops.attention import QUERY_TILE, SEGMENT_TOKENS, paged_attention, write_kv
from quire.kernels.ops.int8 import SCALE_BYTES, dequantize, mix, quantize


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine take a hundred times as long for matrices this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Setting(NamedTuple):
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 16
    block: int = 16
    window: int | None = None
    softcap: float | None = None
    dtype: torch.dtype = torch.float32
    has_int8_cache: bool = False


class History:
    """Sequences whose KV lies in shuffled blocks of one cache; any of their last tokens can be attended again."""

    def __init__(self, setting: Setting, lens: list[int], seed: int = 0) -> None:
        self.setting = setting
        random = torch.Generator().manual_seed(seed)
        self.q = [self._normal(random, n, setting.heads) for n in lens]
        self.k = [self._normal(random, n, setting.kv_heads) for n in lens]
        self.v = [self._normal(random, n, setting.kv_heads) for n in lens]
        self.place(seed)

    def _normal(self, random: torch.Generator, tokens: int, heads: int) -> Tensor:
        return torch.randn(tokens, heads, self.setting.head_dim, generator=random).to(self.setting.dtype)

    def place(self, seed: int, extra_columns: int = 0) -> None:
        """Lay all KV into blocks drawn by ``seed``."""
        setting, width = self.setting, max(-(-len(q) // self.setting.block) for q in self.q) + extra_columns
        count = width * len(self.q)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        self.tables = order.view(-1, width).int()
        width, dtype = setting.head_dim, setting.dtype
        if setting.has_int8_cache:
            width, dtype = width + SCALE_BYTES, torch.int8
        self.cache = tuple(torch.zeros(2, count, setting.kv_heads, setting.block, width, dtype=dtype))
        for k, v, table in zip(self.k, self.v, self.tables, strict=True):
            positions = torch.arange(len(k))
            slots = table.long()[positions // setting.block] * setting.block + positions % setting.block
            write_kv(k, v, *self.cache, slots)

    def attend(self, rows: list[tuple[int, int, int]]) -> list[Tensor]:
        """Each (sequence, start, end): attention of those tokens, all of ``rows`` in one call."""
        q = torch.cat([self.q[i][start:end] for i, start, end in rows])
        counts = [end - start for _, start, end in rows]
        out = paged_attention(
            q,
            *self.cache,
            self.tables[[i for i, _, _ in rows]],
            torch.tensor([0, *counts]).cumsum(0).int(),
            torch.tensor([end for _, _, end in rows]).int(),
            scale=0.3,
            sliding_window=self.setting.window,
            softcap=self.setting.softcap,
        )
        return list(out.split(counts))

    def expected(self, i: int) -> Tensor:
        """The definition, in float64."""
        setting, n = self.setting, len(self.q[i])
        group = setting.heads // setting.kv_heads
        k, v = self.k[i], self.v[i]
        if setting.has_int8_cache:
            k, v = mix(dequantize(quantize(mix(k)))), dequantize(quantize(v))  # mixed twice, it is what it was
        k, v = (t.double().repeat_interleave(group, 1) for t in (k, v))
        scores = torch.einsum("qhd,khd->hqk", self.q[i].double(), k) * 0.3
        if setting.softcap is not None:
            scores = setting.softcap * torch.tanh(scores / setting.softcap)
        distance = torch.arange(n)[:, None] - torch.arange(n)
        visible = (distance >= 0) & (distance < (setting.window or n))
        return torch.einsum("hqk,khd->qhd", scores.masked_fill(~visible, -torch.inf).softmax(-1), v)


SETTINGS = {
    "grouped": Setting(),
    "one head each": Setting(heads=3, kv_heads=3),
    "many to one": Setting(heads=12, kv_heads=1, head_dim=32, block=32),
    "window": Setting(window=21),
    "window over segments": Setting(window=SEGMENT_TOKENS + 5, block=32),
    "softcap": Setting(softcap=2.0),
    "small blocks": Setting(block=1, head_dim=8),
    "odd blocks": Setting(block=24),
    "bfloat16": Setting(dtype=torch.bfloat16),
    "float16": Setting(dtype=torch.float16),
    "int8": Setting(has_int8_cache=True),
    "int8 of bfloat16": Setting(window=21, softcap=2.0, dtype=torch.bfloat16, has_int8_cache=True),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_is_softmax_attention(name: str) -> None:
    setting = SETTINGS[name]
    history = History(setting, [1, 37, 2 * SEGMENT_TOKENS + 3])
    for i, out in enumerate(history.attend([(0, 0, 1), (1, 0, 37), (2, 0, len(history.q[2]))])):
        tolerance = 2e-6 if setting.dtype == torch.float32 else 2e-2
        assert out.dtype == setting.dtype
        torch.testing.assert_close(out.double(), history.expected(i), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_road_does_not_change_a_bit(name: str) -> None:
    """Alone, in chunks, among others, after others, from other blocks, in a wider table."""
    lens = [1, 5, 37, SEGMENT_TOKENS, 2 * SEGMENT_TOKENS + 3, 70]
    history = History(SETTINGS[name], lens)
    whole = [history.attend([(i, 0, n)])[0] for i, n in enumerate(lens)]

    for chunk in (1, 7, 64):
        longest = lens[4]
        pieces = [
            history.attend([(4, at, min(at + chunk, longest))])[0]
            for at in range(0, longest, chunk)
            if chunk > 1 or at % 31 == 0
        ]
        rows = torch.arange(longest) if chunk > 1 else torch.arange(0, longest, 31)
        assert torch.equal(torch.cat(pieces), whole[4][rows])

    history.place(seed=9, extra_columns=3)
    mixed = [(4, lens[4] - 1, lens[4]), (2, 30, 37), (0, 0, 1), (3, lens[3] - 1, lens[3]), (1, 0, 5), (5, 69, 70)]
    for order in (mixed, mixed[::-1], mixed[:3]):
        for (i, start, end), out in zip(order, history.attend(order), strict=True):
            assert torch.equal(out, whole[i][start:end])


@pytest.mark.parametrize("num_threads", (1, 3, 8))
def test_threads_leave_no_trace(num_threads: int) -> None:
    """Odd numbers of rows are where threads share a product differently."""
    torch.set_num_threads(num_threads)
    history = History(Setting(heads=3, kv_heads=1, head_dim=64, block=24), [90])
    whole = history.attend([(0, 0, 90)])[0]
    for chunk in (1, 3, 11, 37):
        assert torch.equal(history.attend([(0, 50, 50 + chunk)])[0], whole[50 : 50 + chunk])


def test_many_single_tokens_are_grouped_without_a_trace() -> None:
    """Enough sequences for several groups, of very unlike lengths."""
    lens = [1 + (i * 37) % 150 for i in range(70)] + [3 * SEGMENT_TOKENS + 1]
    history = History(Setting(head_dim=64), lens)
    together = history.attend([(i, n - 1, n) for i, n in enumerate(lens)])
    for i in (0, 1, 13, 69, 70):
        assert torch.equal(together[i], history.attend([(i, lens[i] - 1, lens[i])])[0])


def test_long_chunks_are_tiled_without_a_trace() -> None:
    n = 2 * QUERY_TILE + 1
    history = History(Setting(window=50), [n])
    whole = history.attend([(0, 0, n)])[0]
    assert torch.equal(whole[QUERY_TILE:], history.attend([(0, QUERY_TILE, n)])[0])
    assert torch.equal(whole[5:40], history.attend([(0, 5, 40)])[0])


def test_what_lies_beyond_a_sequence_does_not_reach_it() -> None:
    """Neither the rest of its last block, nor other blocks, nor what was written there as NaN."""
    history = History(Setting(), [20])
    clean = history.attend([(0, 19, 20)])[0]
    slots = torch.arange(history.cache[0].shape[0] * 16)
    taken = history.tables[0].long().repeat_interleave(16)[:20] * 16 + torch.arange(20) % 16
    free = slots[~torch.isin(slots, taken)]
    garbage = torch.full((len(free), 2, 16), torch.nan)
    garbage[::2] = torch.inf
    write_kv(garbage, garbage, *history.cache, free)
    assert torch.equal(history.attend([(0, 19, 20)])[0], clean)


def test_a_poisoned_row_stays_alone() -> None:
    history = History(Setting(), [20, 20])
    clean = history.attend([(1, 19, 20)])[0]
    history.q[0][:] = torch.nan
    poisoned, other = history.attend([(0, 19, 20), (1, 19, 20)])
    assert poisoned.isnan().all()
    assert torch.equal(other, clean)


def test_write_kv_puts_each_token_in_its_slot() -> None:
    key, value = torch.zeros(3, 2, 4, 8), torch.zeros(3, 2, 4, 8)
    k, v = torch.randn(3, 2, 8), torch.randn(3, 2, 8)
    write_kv(k, v, key, value, torch.tensor([11, 0, 5]))
    for row, (block, offset) in enumerate(((2, 3), (0, 0), (1, 1))):
        assert torch.equal(key[block, :, offset], k[row])
        assert torch.equal(value[block, :, offset], v[row])
    assert key.count_nonzero() == k.numel()


def test_quantized_is_near_and_of_known_size() -> None:
    x = torch.randn(50, 3, 64) * torch.logspace(-20, 4, 50)[:, None, None]
    x[7, 1] = 0
    x[8, 2] = torch.tensor([1.0, -127.0, 0.5, 1.5, 2.5, 126.5, -0.5, 0.0] * 8)
    stored = quantize(x)
    assert stored.dtype == torch.int8
    assert stored.shape == (50, 3, 64 + SCALE_BYTES)
    greatest = x.abs().amax(-1, keepdim=True)
    assert ((dequantize(stored) - x).abs() <= greatest * (0.5 / 127 + 1e-6)).all()
    assert stored[8, 2, :8].tolist() == [1, -127, 0, 2, 2, 126, 0, 0]
    assert not dequantize(stored)[7, 1].any()


def test_what_is_quantized_is_finite() -> None:
    cache = torch.zeros(2, 1, 1, 4, 8 + SCALE_BYTES, dtype=torch.int8)
    kv = torch.tensor([[[torch.nan] * 8], [[torch.inf, 1.0, -torch.inf, torch.nan] * 2], [[3e38] * 8], [[1e-44] * 8]])
    write_kv(kv, kv, *cache, torch.arange(4))
    keys, values = dequantize(cache)[:, 0, 0]
    expected = torch.tensor([[0.0] * 8, [65504.0, 0, -65504, 0] * 2, [3e38] * 8, [0.0] * 8])
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=0)
    expected[2] = 1e30
    torch.testing.assert_close(mix(keys), expected, rtol=1e-6, atol=300)


@pytest.mark.parametrize("size", [1, 3, 16, 64, 80, 96, 512])
def test_mixing_is_a_change_of_basis(size: int) -> None:
    assert mix(torch.empty(0, 3, size)).shape == (0, 3, size)
    q, k = torch.randn(2, 20, 3, size)
    torch.testing.assert_close(mix(mix(q)), q)
    products = (mix(q).double() * mix(k).double()).sum(-1), (q.double() * k.double()).sum(-1)
    torch.testing.assert_close(*products, rtol=1e-5, atol=1e-4)
    single = torch.zeros(size)
    single[size - 1] = 1.0
    assert mix(single).abs().max() == pytest.approx((size & -size) ** -0.5)
