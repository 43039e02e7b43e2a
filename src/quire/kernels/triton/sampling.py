"""Sampling on a CUDA device: what Sampling asks, and beside it the same with tensors in and tensors out.

Law: see DeviceSampling. Sizes, and which kernels run, depend on the host's knowledge alone.
"""

from dataclasses import dataclass

import numpy as np
import torch
import triton
from torch import Tensor

from quire.kernels.ops.device_sampling import DeviceDraws
from quire.kernels.ops.sampling import Draws, Scores, is_sound, keep_free, some_rows
from quire.kernels.triton import draw as kernels
from quire.kernels.triton.score import keep_allowed, score_rows
from quire.kernels.triton.slots import count, penalise, wishes
from quire.kernels.triton.tuning import CANDIDATES, ELEMENTS, SORT_WARPS, STRETCH
from quire.kernels.triton.variant import Variant, blank
from quire.kernels.triton.vocabulary import row_best, stretch_bests

MAX_VOCAB_SIZE = kernels.MAX_VOCAB_SIZE
_AT_ONCE = 16
"""Stretches whose buckets are looked at together."""

_EXACT = {"enable_fp_fusion": False}
"""Every kernel that scales a logit must get the same bits."""


def device_draws(draws: Draws, device: torch.device) -> DeviceDraws:
    """A copy on the device: one transfer, of pinned memory, which nobody waits for.

    A top_k of the vocabulary's size cuts nothing; the kernels see to that.
    """
    num_rows = len(draws.temperature)
    packed = torch.empty((4, num_rows), dtype=torch.int64, pin_memory=device.type == "cuda")
    top_k, top_p, uniforms, halves = packed.numpy()
    top_k[:] = draws.top_k
    top_p.view(np.float64)[:], uniforms.view(np.float64)[:] = draws.top_p, draws.uniforms
    floats = halves.view(np.float32)
    floats[:num_rows], floats[num_rows:] = draws.temperature, draws.log_min_p
    there = packed.to(device, non_blocking=True)
    reals, singles = there[1:3].view(torch.float64), there[3].view(torch.float32)
    has_random = bool((draws.temperature > 0).any())
    return DeviceDraws(singles[:num_rows], singles[num_rows:], there[0], reals[0], reals[1], has_random=has_random)


class TritonSampling:
    """A Sampling and a DeviceSampling for logits on a CUDA device. Lives on a worker; holds nothing."""

    wishes = staticmethod(wishes)
    score = staticmethod(score_rows)
    allow = staticmethod(keep_allowed)
    penalise = staticmethod(penalise)
    count = staticmethod(count)

    def draw(self, logits: Tensor, draws: DeviceDraws) -> Tensor:
        """See DeviceSampling.draw. ``logits`` [n, V], V <= MAX_VOCAB_SIZE."""
        if not draws.has_random or not len(logits):
            return row_best(logits)
        return _draw(logits, draws)

    def draw_tokens(
        self, logits: Tensor, draws: Draws, rows: np.ndarray | None = None, free: np.ndarray | None = None
    ) -> np.ndarray:
        """See Sampling.draw_tokens."""
        some = logits if rows is None else some_rows(logits, rows)
        if free is not None:
            return keep_free(self, some, draws, free)
        if not draws.temperature.any():  # nothing need be sent there
            return row_best(some).cpu().numpy()
        return self.draw(some, device_draws(draws, logits.device)).cpu().numpy()

    def score_tokens(self, logits: Tensor, rows: np.ndarray, tokens: np.ndarray, k: int) -> Scores:
        """See Sampling.score_tokens."""
        columns = np.ascontiguousarray(tokens.T, np.int64)
        where, which = (torch.from_numpy(ids).to(logits.device) for ids in (rows.astype(np.int64), columns))
        *others, last = which
        scores = [*(self.score(logits, where, ids, 0) for ids in others), self.score(logits, where, last, k)]
        return Scores(
            torch.cat([found.token_ids for found in scores], 1).cpu().numpy(),
            torch.cat([found.logprobs for found in scores], 1).cpu().numpy(),
            torch.stack([found.ranks for found in scores], 1).cpu().numpy(),
        )

    def keep_allowed(self, logits: Tensor, rows: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """See Sampling.keep_allowed."""
        sound = is_sound(logits, rows)
        where = torch.from_numpy(rows.astype(np.int64)).to(logits.device)
        self.allow(logits, where, torch.from_numpy(np.ascontiguousarray(masks)).to(logits.device))
        return sound


def _draw(logits: Tensor, draws: DeviceDraws) -> Tensor:
    num_rows, size = logits.shape
    assert logits.stride(1) == 1 and size <= MAX_VOCAB_SIZE
    bests = stretch_bests(logits)
    grid = (num_rows, bests.shape[1])
    new = _New(logits.device)
    totals = new(*grid, dtype=torch.int64)
    counts = new(*grid, kernels.BUCKETS if draws.has_cut else 0, dtype=torch.int32)
    out = new(num_rows, dtype=torch.int32)
    wish = (draws.temperature, draws.log_min_p, draws.top_k, draws.top_p)
    tile = _tile(grid[1]) | dict(LENGTH=STRETCH, BLOCK=ELEMENTS.block, num_warps=ELEMENTS.num_warps)
    shape = (size, logits.stride(0), grid[1])
    kernels.stretch_masses[grid](
        logits, bests, *wish, totals, counts, *shape, BUCKETS=kernels.BUCKETS, **tile, **_EXACT
    )
    kernels.draw_whole[(num_rows,)](logits, bests, *wish, draws.uniforms, totals, out, *shape, **tile, **_EXACT)
    if not draws.has_cut:
        return out
    bounds, nums = new(2, num_rows, dtype=torch.int32)
    offsets = new(*grid, dtype=torch.int32)
    keys = new(num_rows, CANDIDATES, dtype=torch.int64)
    _bound(draws, bests, totals, counts, (bounds, nums, offsets), size)
    kernels.gather[grid](
        logits, bests, *wish, bounds, nums, offsets, keys, *shape, CANDIDATES=CANDIDATES, **tile, **_EXACT
    )
    _choose(logits, draws, bests, totals, nums, keys, out)
    return out


def _bound(
    draws: DeviceDraws, bests: Tensor, totals: Tensor, counts: Tensor, found: tuple[Tensor, Tensor, Tensor], size: int
) -> None:
    num_rows, num_stretches = bests.shape
    cut = (draws.temperature, draws.top_k, draws.top_p)
    tile = _tile(num_stretches) | dict(AT_ONCE=_AT_ONCE, BUCKETS=kernels.BUCKETS, num_warps=ELEMENTS.num_warps)
    kernels.bound[(num_rows,)](bests, *cut, totals, counts, *found, size, num_stretches, **tile)


def _choose(
    logits: Tensor, draws: DeviceDraws, bests: Tensor, totals: Tensor, nums: Tensor, keys: Tensor, out: Tensor
) -> None:
    """Among the sorted, or by search: each kernel passes over the other's rows."""
    num_rows, num_stretches = bests.shape
    size = logits.shape[1]
    cut = (draws.top_k, draws.top_p, draws.uniforms)
    tile = _tile(num_stretches) | dict(CANDIDATES=CANDIDATES, num_warps=SORT_WARPS)
    kernels.draw_sorted[(num_rows,)](
        bests, draws.temperature, *cut, totals, nums, keys, out, size, num_stretches, **tile, **_EXACT
    )
    wish = (draws.temperature, draws.log_min_p, *cut)
    shape = (size, logits.stride(0), num_stretches)
    kernels.draw_searched[(num_rows,)](logits, bests, *wish, nums, out, *shape, BLOCK=STRETCH, **tile, **_EXACT)


def _tile(num_stretches: int) -> dict[str, int]:
    return dict(STRETCHES=triton.next_power_of_2(num_stretches))


@dataclass(frozen=True)
class _New:
    """Makes tensors without contents."""

    device: torch.device

    def __call__(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)


def _blank_draws(num_rows: int) -> DeviceDraws:
    floats, doubles = blank(num_rows, dtype=torch.float32), blank(num_rows, dtype=torch.float64)
    return DeviceDraws(floats, floats, blank(num_rows, dtype=torch.int64), doubles, doubles)


def _variant(size: int) -> Variant:
    def call() -> Tensor:
        return TritonSampling().draw(blank(64, size, dtype=torch.float32), _blank_draws(64))

    return Variant(f"{size} tokens", call, {"stretch_masses": {"LDG.128": 2}, "gather": {"LDG.128": 2}})


VARIANTS = [_variant(151936)]
