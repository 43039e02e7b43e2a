"""Drawing a token a row on a CUDA device, without a sort of the vocabulary and without asking the host.

Contract: see Sampling.draw_tokens. Masses are exp(scaled) * 2**42, cut off to integers, not divided by their sum: a sum
of integers is the same in any order, and a vocabulary of 2**20 fits into 62 bits. A token less likely than the
likeliest by 2**42 is never drawn. The reference rounds probabilities by the sum first; so another token is drawn where
the uniform number falls within some 1e-6 of a border between two, and nowhere else.

A row is read in stretches of a fixed length, one program each: its greatest (vocabulary.py); then the masses, and where
the tail is cut, how many tokens lie how far from the greatest, in buckets of 1/8; these tell how far the ranking has to
be looked at (``_bound``), and that much is gathered and sorted. Where more is kept than can be sorted, the ranking is
searched by halving: each step reads the row once more. Both find the same token: all comparisons are of integers.

Bound: memory, three reads of the logits where something is cut (two of them from the L2 cache), two where nothing is.
"""

import triton
import triton.language as tl

from quire.kernels.triton.vocabulary import best_token, best_value

MAX_VOCAB_SIZE = 2**20
BUCKETS = 256
"""The last one is all that is 31.875 or more away: of no mass."""

_ID_BITS = tl.constexpr(20)
_ID_MASK = tl.constexpr(2**20 - 1)
_MASS = tl.constexpr(float(2**42))
_LAST = tl.constexpr(BUCKETS - 1)
_PER_UNIT = tl.constexpr(8.0)
_NO_KEY = tl.constexpr(2**62)
_FARTHEST = tl.constexpr((0x42000000 << 20) - 1)
"""The last key of a distance under 32: what is farther has no mass."""


@triton.jit
def _load_scaled(x, start, ids, size, best, temperature, log_min_p):
    """Logits minus the greatest, by the temperature, -inf where min_p forbids."""
    value = tl.load(x + start + ids, ids < size, other=float("-inf"))
    scaled = tl.div_rn(value - best, temperature)
    return tl.where(scaled < log_min_p, float("-inf"), scaled)


@triton.jit
def _mass(scaled):
    return (tl.exp(scaled) * _MASS).to(tl.int64)


@triton.jit
def _bucket(scaled):
    return tl.minimum((0.0 - scaled) * _PER_UNIT, _LAST).to(tl.int32)


@triton.jit
def _rank_key(scaled, ids):
    """Smaller is better: by distance, then by id."""
    return ((0.0 - scaled).to(tl.int32, bitcast=True).to(tl.int64) << _ID_BITS) | ids.to(tl.int64)


@triton.jit
def _least(share, mass):
    """The smallest integer that is ``share`` of ``mass`` or more, not over it."""
    wanted = share * mass.to(tl.float64)
    least = wanted.to(tl.int64)
    least += tl.where(least.to(tl.float64) < wanted, 1, 0)
    return tl.where(share < 1, tl.minimum(least, mass), mass)


@triton.jit
def _target(uniform, mass):
    return tl.minimum((uniform * mass.to(tl.float64)).to(tl.int64), mass - 1)


@triton.jit
def _wish(bests, temperature, top_k, top_p, row, size, num_stretches, STRETCHES: tl.constexpr):
    """A row's greatest logit, and whether it is finite; its temperature, and whether its tail is cut."""
    best, is_sound = best_value(bests, row, num_stretches, STRETCHES)
    is_cut = (tl.load(top_k + row) < size) | (tl.load(top_p + row) < 1)
    return best, is_sound, tl.load(temperature + row), is_cut


@triton.jit
def stretch_masses(
    x, bests, temperature, log_min_p, top_k, top_p, totals, counts, size, stride, num_stretches, LENGTH: tl.constexpr,
    BLOCK: tl.constexpr, STRETCHES: tl.constexpr, BUCKETS: tl.constexpr,
):  # fmt: skip
    """The mass of each stretch [R, S], and of rows that are cut how many tokens are in each bucket [R, S, BUCKETS]."""
    row, stretch = tl.program_id(0).to(tl.int64), tl.program_id(1)
    best, is_sound, warmth, is_cut = _wish(bests, temperature, top_k, top_p, row, size, num_stretches, STRETCHES)
    if (warmth > 0) & is_sound:
        floor = tl.load(log_min_p + row)
        total = tl.zeros((BLOCK,), tl.int64)
        found = tl.zeros((BUCKETS,), tl.int32)
        for start in range(0, LENGTH, BLOCK):
            ids = stretch * LENGTH + start + tl.arange(0, BLOCK)
            scaled = _load_scaled(x, row * stride, ids, size, best, warmth, floor)
            total += _mass(scaled)
            if is_cut:
                found += tl.histogram(_bucket(scaled), BUCKETS)
        place = row * num_stretches + stretch
        tl.store(totals + place, tl.sum(total, 0))
        if is_cut:
            tl.store(counts + place * BUCKETS + tl.arange(0, BUCKETS), found)


@triton.jit
def bound(
    bests, temperature, top_k, top_p, totals, counts, bounds, nums, offsets, size, num_stretches,
    STRETCHES: tl.constexpr, AT_ONCE: tl.constexpr, BUCKETS: tl.constexpr,
):  # fmt: skip
    """How many buckets hold all that a row may keep [R], how many tokens that is [R], and where each stretch's go.

    With top_k, enough for k tokens; else so many that the rest has no more than 1 - top_p of the mass. A bucket's mass
    is at most what all its tokens had at its near end.
    """
    row = tl.program_id(0).to(tl.int64)
    _, is_sound, warmth, is_cut = _wish(bests, temperature, top_k, top_p, row, size, num_stretches, STRETCHES)
    if (warmth > 0) & is_sound & is_cut:
        k, p = tl.load(top_k + row), tl.load(top_p + row)
        bucket = tl.arange(0, BUCKETS)
        some = tl.arange(0, AT_ONCE)
        sizes = tl.zeros((BUCKETS,), tl.int64)
        for start in range(0, num_stretches, AT_ONCE):
            place = (row * num_stretches + start + some) * BUCKETS
            near = (start + some < num_stretches)[:, None] & (bucket < _LAST)[None, :]
            sizes += tl.sum(tl.load(counts + place[:, None] + bucket[None, :], near, other=0).to(tl.int64), 0)
        lane = tl.arange(0, STRETCHES)
        total = tl.sum(tl.load(totals + row * num_stretches + lane, lane < num_stretches, other=0), 0)
        most = sizes * ((tl.exp(0.0 - bucket.to(tl.float32) / _PER_UNIT) * (_MASS * 1.00001)).to(tl.int64) + 1)
        behind = tl.cumsum(most, 0, reverse=True) - most
        is_short = tl.where(k < size, tl.cumsum(sizes, 0) < k, total - behind < _least(p, total))
        last = tl.minimum(tl.sum(is_short.to(tl.int32), 0), _LAST - 1)
        tl.store(bounds + row, last)
        num = tl.sum(tl.where(bucket <= last, sizes, 0), 0)
        tl.store(nums + row, num.to(tl.int32))
        before = tl.zeros((), tl.int32)
        for start in range(0, num_stretches, AT_ONCE):
            place = row * num_stretches + start + some
            is_there = start + some < num_stretches
            near = is_there[:, None] & (bucket <= last)[None, :]
            here = tl.sum(tl.load(counts + place[:, None] * BUCKETS + bucket[None, :], near, other=0), 1)
            tl.store(offsets + place, before + tl.cumsum(here, 0) - here, is_there)
            before += tl.sum(here, 0)


@triton.jit
def gather(
    x, bests, temperature, log_min_p, top_k, top_p, bounds, nums, offsets, keys, size, stride, num_stretches,
    LENGTH: tl.constexpr, BLOCK: tl.constexpr, STRETCHES: tl.constexpr, CANDIDATES: tl.constexpr,
):  # fmt: skip
    """The keys [R, CANDIDATES] of the tokens in those buckets, of rows where they are few enough."""
    row, stretch = tl.program_id(0).to(tl.int64), tl.program_id(1)
    best, is_sound, warmth, is_cut = _wish(bests, temperature, top_k, top_p, row, size, num_stretches, STRETCHES)
    if (warmth > 0) & is_sound & is_cut:
        last = tl.load(bounds + row)
        if tl.load(nums + row) <= CANDIDATES:
            floor = tl.load(log_min_p + row)
            place = tl.load(offsets + row * num_stretches + stretch)
            for start in range(0, LENGTH, BLOCK):
                ids = stretch * LENGTH + start + tl.arange(0, BLOCK)
                scaled = _load_scaled(x, row * stride, ids, size, best, warmth, floor)
                near = _bucket(scaled) <= last
                count = near.to(tl.int32)
                to = row * CANDIDATES + place + tl.cumsum(count, 0) - count
                tl.store(keys + to, _rank_key(scaled, ids), near)
                place += tl.sum(count, 0)


@triton.jit
def draw_whole(
    x, bests, temperature, log_min_p, top_k, top_p, uniforms, totals, out, size, stride, num_stretches,
    LENGTH: tl.constexpr, BLOCK: tl.constexpr, STRETCHES: tl.constexpr,
):  # fmt: skip
    """Tokens [R] of rows of which nothing is cut, in the order of ids; of the greedy ones; and -1 for unsound ones."""
    row = tl.program_id(0).to(tl.int64)
    best, is_sound, warmth, is_cut = _wish(bests, temperature, top_k, top_p, row, size, num_stretches, STRETCHES)
    lane = tl.arange(0, STRETCHES)
    if (warmth == 0) | (is_sound == 0):
        tl.store(out + row, tl.where(is_sound, best_token(bests, row, num_stretches, STRETCHES), -1))
    elif is_cut == 0:
        floor = tl.load(log_min_p + row)
        held = tl.load(totals + row * num_stretches + lane, lane < num_stretches, other=0)
        target = _target(tl.load(uniforms + row), tl.sum(held, 0))
        is_before = tl.cumsum(held, 0) <= target
        stretch = tl.sum(is_before.to(tl.int32), 0)
        so_far = tl.sum(tl.where(is_before, held, 0), 0)
        token = stretch * LENGTH
        for start in range(0, LENGTH, BLOCK):
            ids = stretch * LENGTH + start + tl.arange(0, BLOCK)
            mass = _mass(_load_scaled(x, row * stride, ids, size, best, warmth, floor))
            token += tl.sum((so_far + tl.cumsum(mass, 0) <= target).to(tl.int32), 0)
            so_far += tl.sum(mass, 0)
        tl.store(out + row, token)


@triton.jit
def draw_sorted(
    bests, temperature, top_k, top_p, uniforms, totals, nums, keys, out, size, num_stretches, STRETCHES: tl.constexpr,
    CANDIDATES: tl.constexpr,
):  # fmt: skip
    """Tokens [R] of rows that are cut, and of which few enough are kept."""
    row = tl.program_id(0).to(tl.int64)
    _, is_sound, warmth, is_cut = _wish(bests, temperature, top_k, top_p, row, size, num_stretches, STRETCHES)
    if (warmth > 0) & is_sound & is_cut:
        num = tl.load(nums + row)
        if num <= CANDIDATES:
            k, p = tl.load(top_k + row), tl.load(top_p + row)
            place = tl.arange(0, CANDIDATES)
            key = tl.sort(tl.load(keys + row * CANDIDATES + place, place < num, other=_NO_KEY))
            distance = (key >> _ID_BITS).to(tl.int32).to(tl.float32, bitcast=True)
            mass = tl.where(place < num, _mass(0.0 - distance), 0)
            held = tl.cumsum(mass, 0)
            lane = tl.arange(0, STRETCHES)
            total = tl.sum(tl.load(totals + row * num_stretches + lane, lane < num_stretches, other=0), 0)
            of = tl.where(k < size, tl.sum(tl.where(place < k, mass, 0), 0), total)
            num_kept = tl.minimum(tl.sum((held < _least(p, of)).to(tl.int64), 0) + 1, k)
            target = _target(tl.load(uniforms + row), tl.sum(tl.where(place < num_kept, mass, 0), 0))
            chosen = tl.sum((held <= target).to(tl.int32), 0)
            ids = (key & _ID_MASK).to(tl.int32)
            tl.store(out + row, tl.sum(tl.where(place == chosen, ids, 0), 0))


@triton.jit
def _reach(x, start, size, best, temperature, log_min_p, key, BLOCK: tl.constexpr):
    """How many tokens have this key or a smaller one, and their mass."""
    count = tl.zeros((BLOCK,), tl.int32)
    mass = tl.zeros((BLOCK,), tl.int64)
    for first in range(0, size, BLOCK):
        ids = first + tl.arange(0, BLOCK)
        scaled = _load_scaled(x, start, ids, size, best, temperature, log_min_p)
        near = _rank_key(scaled, ids) <= key
        count += near.to(tl.int32)
        mass += tl.where(near, _mass(scaled), 0)
    return tl.sum(count, 0).to(tl.int64), tl.sum(mass, 0)


@triton.jit
def _search(x, start, size, best, temperature, log_min_p, highest, num, least, BLOCK: tl.constexpr):
    """The smallest key up to which there are ``num`` tokens and a mass of ``least``; ``highest`` if there is none."""
    low = tl.zeros((), tl.int64)
    high = highest
    while low < high:
        middle = (low + high) // 2
        count, mass = _reach(x, start, size, best, temperature, log_min_p, middle, BLOCK)
        is_enough = (count >= num) & (mass >= least)
        high = tl.where(is_enough, middle, high)
        low = tl.where(is_enough, low, middle + 1)
    return low


@triton.jit
def draw_searched(
    x, bests, temperature, log_min_p, top_k, top_p, uniforms, nums, out, size, stride, num_stretches,
    BLOCK: tl.constexpr, STRETCHES: tl.constexpr, CANDIDATES: tl.constexpr,
):  # fmt: skip
    """Tokens [R] of rows that are cut, and of which more is kept than can be sorted."""
    row = tl.program_id(0).to(tl.int64)
    best, is_sound, warmth, is_cut = _wish(bests, temperature, top_k, top_p, row, size, num_stretches, STRETCHES)
    if (warmth > 0) & is_sound & is_cut:
        num = tl.load(nums + row)
        if num > CANDIDATES:
            k, p = tl.load(top_k + row), tl.load(top_p + row)
            floor = tl.load(log_min_p + row)
            start = row * stride
            last = tl.full((), _FARTHEST, tl.int64)
            zero = tl.zeros((), tl.int64)
            if k < size:
                last = _search(x, start, size, best, warmth, floor, last, k, zero, BLOCK)
            _, held = _reach(x, start, size, best, warmth, floor, last, BLOCK)
            if p < 1:
                last = _search(x, start, size, best, warmth, floor, last, zero, _least(p, held), BLOCK)
                _, held = _reach(x, start, size, best, warmth, floor, last, BLOCK)
            target = _target(tl.load(uniforms + row), held)
            chosen = _search(x, start, size, best, warmth, floor, last, zero, target + 1, BLOCK)
            tl.store(out + row, (chosen & _ID_MASK).to(tl.int32))
