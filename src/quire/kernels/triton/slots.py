"""What slots want of a choice, on a CUDA device: their parameters by row, their penalties, their counts.

Contract: see DeviceSampling. Uniform numbers are those of decoding/random.py, bit for bit: SplitMix64 in integers. A
penalty is rounded where the reference rounds it. Counts are whole numbers, and no slot comes twice in a step.

Bound: launches; penalties read logits and counts once and write logits once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from quire.kernels.ops.device_sampling import DeviceDraws, Real, SlotTables, Whole
from quire.kernels.triton.tuning import ELEMENTS
from quire.kernels.triton.variant import Variant, blank

_TEMPERATURE = tl.constexpr(int(Real.TEMPERATURE))
_LOG_MIN_P = tl.constexpr(int(Real.LOG_MIN_P))
_TOP_P = tl.constexpr(int(Real.TOP_P))
_REPETITION = tl.constexpr(int(Real.REPETITION))
_FREQUENCY = tl.constexpr(int(Real.FREQUENCY))
_PRESENCE = tl.constexpr(int(Real.PRESENCE))
_TOP_K = tl.constexpr(int(Whole.TOP_K))
_SEED = tl.constexpr(int(Whole.SEED))
_PLACE = tl.constexpr(int(Whole.PLACE))
_REALS = tl.constexpr(len(Real))
_WHOLES = tl.constexpr(len(Whole))

_GAMMA = tl.constexpr(0x9E3779B97F4A7C15)
_FIRST = tl.constexpr(0xBF58476D1CE4E5B9)
_SECOND = tl.constexpr(0x94D049BB133111EB)
_ROWS = 128


@triton.jit
def _mix(z):
    z = (z ^ (z >> 30)) * _FIRST
    z = (z ^ (z >> 27)) * _SECOND
    return z ^ (z >> 31)


@triton.jit(do_not_specialize=["num_rows"])
def _wishes(
    reals, wholes, slots, positions, temperature, log_min_p, top_k, top_p, uniforms, num_rows, BLOCK: tl.constexpr
):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < num_rows
    slot = tl.load(slots + row, inside, other=0).to(tl.int64)
    real, whole = reals + slot * _REALS, wholes + slot * _WHOLES
    tl.store(temperature + row, tl.load(real + _TEMPERATURE, inside).to(tl.float32), inside)
    tl.store(log_min_p + row, tl.load(real + _LOG_MIN_P, inside).to(tl.float32), inside)
    tl.store(top_p + row, tl.load(real + _TOP_P, inside), inside)
    tl.store(top_k + row, tl.load(whole + _TOP_K, inside), inside)
    seed = tl.load(whole + _SEED, inside, other=0).to(tl.uint64, bitcast=True)
    position = tl.load(positions + row, inside, other=0).to(tl.int64).to(tl.uint64, bitcast=True)
    bits = _mix(_mix(seed) + (position + 1) * _GAMMA) >> 11
    tl.store(uniforms + row, bits.to(tl.int64).to(tl.float64) * (1.0 / 9007199254740992.0), inside)


@triton.jit
def _penalise(x, slots, reals, wholes, counts, in_prompt, size, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    place = tl.load(wholes + slot * _WHOLES + _PLACE)
    if place >= 0:
        ids = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = ids < size
        repetition = tl.load(reals + slot * _REALS + _REPETITION).to(tl.float32)
        value = tl.load(x + row * stride + ids, inside, other=0.0)
        count = tl.load(counts + place * size + ids, inside, other=0)
        is_seen = (count > 0) | (tl.load(in_prompt + place * size + ids, inside, other=0) != 0)
        lowered = tl.where(value > 0, tl.div_rn(value, repetition), value * repetition)
        value = tl.where(is_seen, lowered, value)
        value -= count.to(tl.float32) * tl.load(reals + slot * _REALS + _FREQUENCY).to(tl.float32)
        value -= (count > 0).to(tl.float32) * tl.load(reals + slot * _REALS + _PRESENCE).to(tl.float32)
        tl.store(x + row * stride + ids, value, inside)


@triton.jit(do_not_specialize=["num_rows"])
def _count(tokens, slots, wholes, counts, size, num_rows, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < num_rows
    slot = tl.load(slots + row, inside, other=0).to(tl.int64)
    token = tl.load(tokens + row, inside, other=-1)
    place = tl.load(wholes + slot * _WHOLES + _PLACE, inside, other=-1)
    is_counted = inside & (token >= 0) & (place >= 0)
    where = counts + place * size + token
    tl.store(where, tl.load(where, is_counted, other=0) + 1, is_counted)


def wishes(tables: SlotTables, slots: Tensor, positions: Tensor, *, has_random: bool, has_cut: bool) -> DeviceDraws:
    """See DeviceSampling.wishes."""
    num_rows, device = len(slots), slots.device
    temperature, log_min_p = torch.empty((2, num_rows), dtype=torch.float32, device=device)
    top_p, uniforms = torch.empty((2, num_rows), dtype=torch.float64, device=device)
    top_k = torch.empty(num_rows, dtype=torch.int64, device=device)
    if num_rows and has_random:
        found = (temperature, log_min_p, top_k, top_p, uniforms)
        grid = (triton.cdiv(num_rows, _ROWS),)
        _wishes[grid](tables.reals, tables.wholes, slots, positions, *found, num_rows, BLOCK=_ROWS, num_warps=4)
    return DeviceDraws(temperature, log_min_p, top_k, top_p, uniforms, has_random, has_cut)


def penalise(logits: Tensor, slots: Tensor, tables: SlotTables, counts: Tensor, in_prompt: Tensor) -> None:
    """See DeviceSampling.penalise."""
    num_rows, size = logits.shape
    assert logits.stride(1) == 1 and counts.is_contiguous() and in_prompt.is_contiguous()
    if num_rows:
        block, num_warps = ELEMENTS
        _penalise[(num_rows, triton.cdiv(size, block))](
            logits,
            slots,
            tables.reals,
            tables.wholes,
            counts,
            in_prompt.view(torch.uint8),
            size,
            logits.stride(0),
            BLOCK=block,
            num_warps=num_warps,
            enable_fp_fusion=False,
        )


def count(tokens: Tensor, slots: Tensor, tables: SlotTables, counts: Tensor) -> None:
    """See DeviceSampling.count."""
    if len(tokens):
        grid = (triton.cdiv(len(tokens), _ROWS),)
        _count[grid](tokens, slots, tables.wholes, counts, counts.shape[1], len(tokens), BLOCK=_ROWS, num_warps=4)


def _ids(dtype: torch.dtype = torch.int64) -> Tensor:
    return blank(64, dtype=dtype)


def _tables() -> SlotTables:
    return SlotTables(blank(256, len(Real), dtype=torch.float64), blank(256, len(Whole), dtype=torch.int64))


def _counts(dtype: torch.dtype) -> Tensor:
    return blank(64, 151936, dtype=dtype)


VARIANTS = [
    Variant("wishes", lambda: wishes(_tables(), _ids(), _ids(), has_random=True, has_cut=True)),
    Variant(
        "penalise",
        lambda: penalise(_counts(torch.float32), _ids(), _tables(), _counts(torch.int32), _counts(torch.bool)),
        {"_penalise": {"LDG.128": 4, "STG.128": 2}},
    ),
    Variant("count", lambda: count(_ids(torch.int32), _ids(), _tables(), _counts(torch.int32))),
]
