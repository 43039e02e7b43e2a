"""Paged attention in Triton: the definition, and the same bits however the work is cut."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from triton.runtime import interpreter

from quire.kernels.triton import attention as kernels
from quire.kernels.triton.attention import (
    Cache,
    Scratch,
    attend,
    attend_chunks,
    attend_tokens,
    chunk_rows,
    chunk_tiles,
    count_units,
)

SEGMENT = kernels.SEGMENT_TOKENS


class Setting(NamedTuple):
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 64
    block: int = 16
    window: int | None = None
    softcap: float | None = None
    dtype: torch.dtype = torch.float32

    @property
    def group(self) -> int:
        return self.heads // self.kv_heads


SETTINGS = {
    "grouped": Setting(),
    "one head each, 128": Setting(2, 2, 128, 32, dtype=torch.bfloat16),
    "seven to one, window": Setting(7, 1, 64, 64, window=70, dtype=torch.float16),
    "96, softcap": Setting(8, 1, 96, 16, softcap=3.0),
    "256, window over segments, softcap": Setting(4, 2, 256, 32, SEGMENT + 9, 5.0),
}


class History:
    """Sequences whose KV lies in shuffled blocks; any of their last tokens can be attended again."""

    def __init__(self, setting: Setting, lens: list[int]) -> None:
        self.setting, self.lens = setting, lens
        width = max(-(-n // setting.block) for n in lens)
        count = width * len(lens) + 2
        shape = (count, setting.kv_heads, setting.block, setting.head_dim)
        self.keys, self.values = torch.randn(2, *shape).to(setting.dtype)
        self.tables = torch.randperm(count)[: width * len(lens)].view(len(lens), width).int()
        self.q = [torch.randn(n, setting.heads, setting.head_dim).to(setting.dtype) for n in lens]

    @property
    def cache(self) -> Cache:
        return Cache(self.keys, self.values, 0.2, self.setting.window, self.setting.softcap)

    def step(self, rows: list[tuple[int, int, int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, tables, starts and lens of tokens start : end of each (sequence, start, end)."""
        starts = torch.tensor([0, *(end - start for _, start, end in rows)]).cumsum(0).int()
        q = torch.cat([self.q[i][start:end] for i, start, end in rows])
        return q, self.tables[[i for i, _, _ in rows]], starts, torch.tensor([end for _, _, end in rows]).int()

    def attend(self, rows: list[tuple[int, int, int]]) -> list[Tensor]:
        q, tables, starts, lens = self.step(rows)
        more: Any = dict(scale=0.2, sliding_window=self.setting.window, softcap=self.setting.softcap)
        out = attend(q, self.keys, self.values, tables, starts, lens, **more)
        return list(out.split(starts.diff().tolist()))

    def tokens(
        self, rows: list[tuple[int, int, int]], *, programs: int, places: int | None = None, tokens: int = 1
    ) -> Tensor:
        """By attend_tokens only, its work cut for so many programs; rows it must leave alone are NaN."""
        q, tables, starts, lens = self.step(rows)
        scratch = Scratch.make(
            q.device, programs, rows=tokens * self.setting.group, head_dim=q.shape[2], max_context=int(lens.max())
        )
        if places is not None:
            scratch = scratch._replace(places=places)
        out, units = torch.full_like(q, torch.nan), torch.full_like(starts, -1)
        count_units(starts, lens, units, tokens=tokens, window=self.setting.window)
        bound = int(lens.max())
        attend_tokens(q, self.cache, tables, starts, lens, units, scratch, out, tokens=tokens, max_context=bound)
        return out

    def chunk(self, i: int, start: int, end: int) -> Tensor:
        """By attend_chunks only, however few."""
        q, tables, starts, lens = self.step([(i, start, end)])
        rows = chunk_rows(self.setting.group, q.shape[2], q.dtype)
        tiles = chunk_tiles(np.array([end - start]), lens.numpy(), rows, tokens=0)
        out = torch.empty_like(q)
        attend_chunks(q, self.cache, tables, starts, lens, torch.from_numpy(tiles), out)
        return out

    def expected(self, i: int, start: int) -> Tensor:
        """The definition, in float64, of the tokens from ``start`` on."""
        setting, n = self.setting, self.lens[i]
        pages = self.tables[i].long()
        k, v = (
            t[pages].transpose(1, 2).flatten(0, 1)[:n].double().repeat_interleave(setting.group, 1)
            for t in (self.keys, self.values)
        )
        scores = torch.einsum("qhd,khd->hqk", self.q[i][start:].double(), k) * 0.2
        if setting.softcap is not None:
            scores = setting.softcap * torch.tanh(scores / setting.softcap)
        distance = torch.arange(start, n)[:, None] - torch.arange(n)
        visible = (distance >= 0) & (distance < (setting.window or n))
        return torch.einsum("hqk,khd->qhd", scores.masked_fill(~visible, -torch.inf).softmax(-1), v)


@pytest.mark.parametrize("name", SETTINGS)
def test_is_softmax_attention(name: str) -> None:
    """Single tokens beside chunks of one tile and of several, ragged, at and over borders of tiles and segments."""
    setting = SETTINGS[name]
    lens = [1, 2 * SEGMENT + 3, 64, SEGMENT + 70]
    history = History(setting, lens)
    firsts = [0, lens[1] - 1, 63, lens[3] - 37]
    tolerance = {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1.2e-2}[setting.dtype]
    outs = history.attend([(i, first, n) for i, (first, n) in enumerate(zip(firsts, lens, strict=True))])
    for i, out in enumerate(outs):
        assert out.dtype == setting.dtype
        torch.testing.assert_close(out.double(), history.expected(i, firsts[i]), rtol=tolerance, atol=tolerance)


def test_prompts_from_their_beginning() -> None:
    history = History(Setting(4, 1, 16, 16), [150, 33])
    for i, out in enumerate(history.attend([(0, 0, 150), (1, 0, 33)])):
        torch.testing.assert_close(out.double(), history.expected(i, 0), rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("window", (None, SEGMENT + 40))
def test_shares_do_not_change_a_bit(window: int | None) -> None:
    """One program for all, several for each sequence, more than there is work; items cut, or taken whole."""
    lens = [3 * SEGMENT + 1, 5, 2 * SEGMENT, 700]
    history = History(Setting(2, 2, 16, window=window, dtype=torch.bfloat16), lens)
    rows = [(i, n - 1, n) for i, n in enumerate(lens)]
    alone = torch.cat([history.tokens([row], programs=1) for row in rows])
    for i, n in enumerate(lens):
        torch.testing.assert_close(alone[i].double(), history.expected(i, n - 1)[0], rtol=1e-2, atol=1e-2)
    for programs, places in ((1, None), (3, None), (40, None), (2, 1)):
        assert torch.equal(history.tokens(rows, programs=programs, places=places), alone)
    assert torch.equal(history.tokens(rows[::-1], programs=3), alone.flip(0))


def test_a_chunk_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """With products that do not depend on the shape of a tile, as those of one kind of instruction do not."""

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        product = np.matmul(a.data.astype(np.float64), b.data.astype(np.float64))
        return interpreter.TensorHandle((product + d.data).astype(np.float32), d.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
    n = SEGMENT + 90
    for window in (None, 100):
        history = History(Setting(4, 1, 32, window=window, softcap=4.0, dtype=torch.float16), [n])
        whole = history.chunk(0, n - 100, n)
        torch.testing.assert_close(whole.double(), history.expected(0, n - 100), rtol=2e-3, atol=2e-3)
        for start, end in ((n - 100, n - 1), (n - 70, n - 30), (n - 1, n)):
            assert torch.equal(history.chunk(0, start, end), whole[start - n + 100 :][: end - start])
        for end in (n, n - 31, n - 90):
            assert torch.equal(history.tokens([(0, end - 1, end)], programs=2)[0], whole[end - n + 99])
        assert torch.equal(history.tokens([(0, n - 4, n)], programs=3, tokens=4), whole[-4:])


def test_what_is_not_asked_for_is_left_alone() -> None:
    """Chunks and padding among single tokens: padding, of no context, becomes zeros."""
    history = History(Setting(4, 2, 16), [70, 50, 9])
    q, tables, starts, lens = history.step([(0, 69, 70), (1, 40, 50), (2, 8, 9), (2, 8, 9)])
    lens[3] = 0
    out, units = torch.full_like(q, torch.nan), torch.empty_like(starts)
    count_units(starts, lens, units)
    scratch = Scratch.make(q.device, 3, rows=2, head_dim=16, max_context=70)
    attend_tokens(q, history.cache, tables, starts, lens, units, scratch, out, max_context=70)
    torch.testing.assert_close(out[0].double(), history.expected(0, 69)[0], rtol=3e-6, atol=3e-6)
    assert out[1:11].isnan().all()
    torch.testing.assert_close(out[11].double(), history.expected(2, 8)[0], rtol=3e-6, atol=3e-6)
    assert not out[12].any()
    tiles = torch.tensor([[-1, 0], [1, 0]], dtype=torch.int32)
    attend_chunks(q, history.cache, tables, starts, lens, tiles, out)
    torch.testing.assert_close(out[1:11].double(), history.expected(1, 40), rtol=3e-6, atol=3e-6)


def test_a_poisoned_sequence_stays_alone() -> None:
    history = History(Setting(4, 2, 16), [70, 50])
    clean = history.attend([(1, 49, 50)])[0]
    history.q[0][:] = torch.nan
    poisoned, other = history.attend([(0, 69, 70), (1, 49, 50)])
    assert poisoned.isnan().all()
    assert torch.equal(other, clean)


def test_tiles_are_all_queries_of_chunks_once() -> None:
    counts, lens = np.array([1, 40, 16, 0, 33]), np.array([9, 40, 500, 7, 100])
    tiles = chunk_tiles(counts, lens, 16)
    assert sorted(map(tuple, tiles.tolist())) == [(1, 0), (1, 16), (1, 32), (2, 0), (4, 0), (4, 16), (4, 32)]
    assert tiles[0].tolist() == [2, 0]
    assert chunk_tiles(counts[:1], lens[:1], 16).shape == (0, 2)


def test_a_cache_of_8_bits_has_its_scales() -> None:
    history = History(Setting(4, 2, 32), [SEGMENT + 9, 40])
    keys, values = ((2 * t).to(torch.float8_e4m3fn) for t in (history.keys, history.values))
    history.keys, history.values = keys.float() / 2, values.float() / 4
    q, tables, starts, lens = history.step([(0, SEGMENT + 8, SEGMENT + 9), (1, 20, 40)])
    cache = Cache(keys, values, 0.2, key_scale=0.5, value_scale=0.25)
    out, units = torch.empty_like(q).bfloat16(), torch.empty_like(starts)
    scratch = Scratch.make(q.device, 3, rows=2, head_dim=32, max_context=SEGMENT + 9)
    q = q.bfloat16()
    history.q = [one.bfloat16().float() for one in history.q]
    count_units(starts, lens, units)
    attend_tokens(q, cache, tables, starts, lens, units, scratch, out, max_context=SEGMENT + 9)
    tiles = chunk_tiles(np.array([1, 20]), lens.numpy(), chunk_rows(2, 32, q.dtype))
    attend_chunks(q, cache, tables, starts, lens, torch.from_numpy(tiles), out)
    torch.testing.assert_close(out[:1].double(), history.expected(0, SEGMENT + 8), rtol=1e-2, atol=3e-3)
    torch.testing.assert_close(out[1:].double(), history.expected(1, 20), rtol=1e-2, atol=3e-3)
