"""Attention over latents in Triton: the reference, and the same bits however the work is cut."""

import pytest
import torch
from torch import Tensor

from quire.kernels.ops.mla import latent_attention, write_latents
from quire.kernels.triton.attention import SEGMENT_TOKENS
from quire.kernels.triton.mla import LatentWork, attend, attend_latents, latent_scratch

R, P = 32, 16


class History:
    """Sequences of latents in shuffled blocks."""

    def __init__(self, lens: list[int], heads: int, block: int = 16, dtype: torch.dtype = torch.float32) -> None:
        width = max(-(-n // block) for n in lens)
        self.tables = torch.randperm(width * len(lens)).view(len(lens), width).int()
        self.cache = torch.randn(width * len(lens), block, R + P).to(dtype)
        self.q = [torch.randn(n, heads, R + P).to(dtype) for n in lens]

    def step(self, rows: list[tuple[int, int, int]]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        starts = torch.tensor([0, *(end - start for _, start, end in rows)]).cumsum(0).int()
        q = torch.cat([self.q[i][start:end] for i, start, end in rows])
        lens = torch.tensor([end for _, _, end in rows]).int()
        return q, self.cache, self.tables[[i for i, _, _ in rows]], starts, lens

    def attend(self, rows: list[tuple[int, int, int]], programs: int) -> Tensor:
        q, cache, tables, starts, lens = self.step(rows)
        work = LatentWork(starts, lens, num_tokens=len(q), max_context=int(lens.max()))
        scratch = latent_scratch(
            q.device,
            programs,
            num_heads=q.shape[1],
            block_size=cache.shape[1],
            num_latents=R,
            max_context=int(lens.max()),
        )
        out = torch.full((*q.shape[:2], R), torch.nan, dtype=q.dtype)
        attend_latents(q, cache, tables, work, scratch, out, scale=0.2)
        return out


@pytest.mark.parametrize(
    ("heads", "block", "dtype"),
    ((16, 64, torch.bfloat16), (40, 16, torch.float32), (4, 32, torch.float16), (64, 64, torch.float32)),
)
def test_is_the_reference(heads: int, block: int, dtype: torch.dtype) -> None:
    lens = [1, SEGMENT_TOKENS + 70, 64, 90]
    history = History(lens, heads, block, dtype)
    step = history.step([(0, 0, 1), (1, lens[1] - 1, lens[1]), (2, 58, 64), (3, 89, 90)])
    out = attend(*step, num_latents=R, scale=0.2)
    q, cache, *rest = step
    expected = latent_attention.reference(q.float(), cache.float(), *rest, num_latents=R, scale=0.2)
    tolerance = {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1.2e-2}[dtype]
    assert out.shape == expected.shape and out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=tolerance, atol=tolerance)


def test_the_road_does_not_change_a_bit() -> None:
    """In chunks, alone, beside others; by one program or by many."""
    lens = [2 * SEGMENT_TOKENS + 5, 30]
    history = History(lens, 4, dtype=torch.bfloat16)
    whole = history.attend([(0, lens[0] - 3, lens[0]), (1, 28, 30)], programs=1)
    assert not whole.isnan().any()
    for programs in (3, 30):
        assert torch.equal(history.attend([(0, lens[0] - 3, lens[0]), (1, 28, 30)], programs), whole)
        assert torch.equal(history.attend([(1, 29, 30), (0, lens[0] - 1, lens[0])], programs), whole[[4, 2]])
    assert torch.equal(history.attend([(0, lens[0] - 3, lens[0] - 1)], programs=2), whole[:2])


def test_latents_go_to_their_slots() -> None:
    cache, latents = torch.zeros(3, 4, 8), torch.randn(3, 8)
    latents[1, 2] = torch.nan
    write_latents(latents, cache, torch.tensor([11, 0, 5]))
    for row, (block, offset) in enumerate(((2, 3), (0, 0), (1, 1))):
        assert torch.equal(cache[block, offset], latents[row].nan_to_num(0.0))
