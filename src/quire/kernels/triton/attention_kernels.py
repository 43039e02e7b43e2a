"""The kernels of paged attention. Their contract, and how they are launched: attention.py.

Algebra of a tile of queries and a tile of keys, scores s in powers of 2: m' = max(m, ceil(max s)), p = 2^(s - m'),
weight' = weight 2^(m - m') + sum p, total' = total 2^(m - m') + p V. Two sums (total, weight, m) are added likewise.
Products are those of q's dtype with float32 sums, to which p is rounded for the second; where the cache is of float8,
those of float16, into which its numbers go at once and exactly.

Threading: programs share nothing but what _attend_tokens leaves for _add_segments, which is launched after it. A place
for a partial sum is written by one program once.
"""

import triton
import triton.language as tl

_LOWEST = tl.constexpr(-1e30)
"""The maximum of nothing: finite, since -inf minus -inf is not a number."""


@triton.jit
def _look_up(table, tile, context, PAGE: tl.constexpr, BLOCK_N: tl.constexpr):
    """The blocks of a tile's keys, or the one that has all of them. Behind the context it is block 0, whose finite
    numbers meet weights of zero."""
    if PAGE % BLOCK_N == 0:
        block = tl.load(table + tile * BLOCK_N // PAGE, mask=tile * BLOCK_N < context, other=0)
    else:
        keys = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        block = tl.load(table + keys // PAGE, mask=keys < context, other=0)
    return block


@triton.jit
def _places(block, stride_block, row, tile, WIDTH: tl.constexpr, PAGE: tl.constexpr, BLOCK_N: tl.constexpr):
    """Where a tile's keys begin, whose rows of WIDTH begin at ``row`` in their blocks."""
    n = tl.arange(0, BLOCK_N)
    if PAGE % BLOCK_N == 0:
        place = block.to(tl.int64) * stride_block + (row + tile * BLOCK_N % PAGE) * WIDTH + n * WIDTH
    else:
        place = block.to(tl.int64) * stride_block + (row + (tile * BLOCK_N + n) % PAGE) * WIDTH
    return place


@triton.jit
def _load_pages(pages, place, D: tl.constexpr, BLOCK_D: tl.constexpr):
    if D == BLOCK_D:
        return tl.load(pages + place)
    return tl.load(pages + place, mask=(tl.arange(0, BLOCK_D) < D)[None, :], other=0.0)


@triton.jit
def _capped(s, scale, softcap):
    """softcap * tanh(x), tanh(x) = 1 - 2 / (1 + e^2x); scale makes of a product the exponent of 2 that is e^2x."""
    return softcap * (1 - 2 / (1 + tl.exp2(s * scale)))


@triton.jit
def _shares(units, max_segments, PLACES: tl.constexpr):
    """How many units each program takes, and whether items are cut for it: where partial sums might find no place, they
    are not, and a program takes those that begin in its share."""
    share = tl.cdiv(units, tl.num_programs(0))
    return share, (share <= PLACES) | (max_segments <= PLACES)


@triton.jit
def _item_of(unit, ends, unit_starts, KV_HEADS: tl.constexpr):
    """The sequence and the KV head of a unit, and from where to where their units are."""
    seq = tl.sum((ends <= unit // KV_HEADS).to(tl.int32), 0)
    base = tl.load(unit_starts + seq)
    segments = tl.load(unit_starts + seq + 1) - base
    head = (unit - base * KV_HEADS) // segments
    begin = base * KV_HEADS + head * segments
    return seq, head, begin, begin + segments


@triton.jit
def _fold_chunk(
    q, key_cache, value_cache, table, position, lowest, highest, context, stride_block, head, scale, softcap,
    D: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SEGMENT: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
):  # fmt: skip
    """Attention of q [BLOCK_M, BLOCK_D] at ``position`` to all keys: sum [BLOCK_M, BLOCK_D] and weight [BLOCK_M]."""
    d, n = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    total = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    total_weight = tl.zeros([BLOCK_M], tl.float32)
    total_peak = tl.full([BLOCK_M], _LOWEST, tl.float32)
    ones = tl.full([BLOCK_N, 16], 1.0, tl.float32).to(q.dtype)
    acc, weights, peak = total, tl.zeros([BLOCK_M, 16], tl.float32), total_peak
    first_tile = 0
    if WINDOW:
        first_tile = tl.maximum(lowest - WINDOW + 1, 0) // BLOCK_N
    last_tile = highest // BLOCK_N + 1
    block = _look_up(table, first_tile, context, PAGE, BLOCK_N)
    for tile in range(first_tile, last_tile):
        keys = tile * BLOCK_N + n
        place = _places(block, stride_block, head * PAGE, tile, D, PAGE, BLOCK_N)[:, None] + d[None, :]
        block = _look_up(table, tile + 1, context, PAGE, BLOCK_N)
        k = _load_pages(key_cache, place, D, BLOCK_D)
        s = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision="ieee")
        if SOFTCAP:
            s = _capped(s, scale, softcap)
        is_seen = (tile + 1) * BLOCK_N <= lowest + 1
        if WINDOW:
            is_seen = is_seen & (tile * BLOCK_N > highest - WINDOW)
        if not is_seen:
            visible = keys[None, :] <= position[:, None]
            if WINDOW:
                visible = visible & (keys[None, :] > position[:, None] - WINDOW)
            s = tl.where(visible, s, float("-inf"))
        factor = 1.0 if SOFTCAP else scale
        grown = tl.maximum(peak, tl.ceil(tl.max(s, 1) * factor))
        p = tl.exp2(s * factor - grown[:, None]).to(q.dtype)
        shrink = tl.exp2(peak - grown)
        peak = grown
        weights = tl.dot(p, ones, weights * shrink[:, None], input_precision="ieee")
        v = _load_pages(value_cache, place, D, BLOCK_D)
        acc = tl.dot(p, v.to(q.dtype), acc * shrink[:, None], input_precision="ieee")
        if ((tile + 1) * BLOCK_N % SEGMENT == 0) | (tile + 1 == last_tile):
            grown = tl.maximum(total_peak, peak)
            old, new = tl.exp2(total_peak - grown), tl.exp2(peak - grown)
            total = total * old[:, None] + acc * new[:, None]
            total_weight = total_weight * old + tl.max(weights, 1) * new  # all columns are alike
            total_peak = grown
            acc, weights = tl.zeros([BLOCK_M, BLOCK_D], tl.float32), tl.zeros([BLOCK_M, 16], tl.float32)
            peak = tl.full([BLOCK_M], _LOWEST, tl.float32)
    return total, total_weight


@triton.jit
def _fold_tokens(
    q, key_cache, value_cache, table, sums, peaks,
    position, context, first_tile, last_tile, keeps, num_rows, stride_block, head, scale, softcap,
    D: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SEGMENT: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Attention of q [BLOCK_D, BLOCK_M] to keys of tiles first_tile : last_tile, all products transposed: few queries
    are the narrow side of an instruction, whose other side is always 64.

    Returns sum [BLOCK_D, BLOCK_M], weight and maximum of all segments if ``keeps``; otherwise those of each segment go
    to sums and peaks, one place after another."""
    d, n, rows = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_M)
    total = tl.zeros([BLOCK_D, BLOCK_M], tl.float32)
    total_weight = tl.zeros([BLOCK_M], tl.float32)
    total_peak = tl.full([BLOCK_M], _LOWEST, tl.float32)
    ones = tl.full([64, BLOCK_N], 1.0, tl.float32).to(q.dtype)
    acc, weights, peak = total, tl.zeros([64, BLOCK_M], tl.float32), total_peak
    block = _look_up(table, first_tile, context, PAGE, BLOCK_N)
    for tile in range(first_tile, last_tile):
        keys = tile * BLOCK_N + n
        place = _places(block, stride_block, head * PAGE, tile, D, PAGE, BLOCK_N)[:, None] + d[None, :]
        block = _look_up(table, tile + 1, context, PAGE, BLOCK_N)
        k = _load_pages(key_cache, place, D, BLOCK_D)
        s = tl.dot(k.to(q.dtype), q, input_precision="ieee")
        if SOFTCAP:
            s = _capped(s, scale, softcap)
        visible = keys[:, None] <= position[None, :]
        if WINDOW:
            visible = visible & (keys[:, None] > position[None, :] - WINDOW)
        s = tl.where(visible, s, float("-inf"))
        factor = 1.0 if SOFTCAP else scale
        grown = tl.maximum(peak, tl.ceil(tl.max(s, 0) * factor))
        p = tl.exp2(s * factor - grown[None, :]).to(q.dtype)
        shrink = tl.exp2(peak - grown)
        peak = grown
        weights = tl.dot(ones, p, weights * shrink[None, :], input_precision="ieee")
        v = _load_pages(value_cache, place, D, BLOCK_D)
        acc = tl.dot(tl.trans(v.to(q.dtype)), p, acc * shrink[None, :], input_precision="ieee")
        if ((tile + 1) * BLOCK_N % SEGMENT == 0) | (tile + 1 == last_tile):
            weight = tl.max(weights, 0)  # all rows are alike
            if keeps:
                grown = tl.maximum(total_peak, peak)
                old, new = tl.exp2(total_peak - grown), tl.exp2(peak - grown)
                total = total * old[None, :] + acc * new[None, :]
                total_weight = total_weight * old + weight * new
                total_peak = grown
            else:
                at = rows[None, :] * D + d[:, None]
                tl.store(sums + at, acc, mask=(rows[None, :] < num_rows) & (d[:, None] < D))
                tl.store(peaks + rows, peak, mask=rows < num_rows)
                tl.store(peaks + ROWS + rows, weight, mask=rows < num_rows)
                sums += ROWS * D
                peaks += 2 * ROWS
            acc, weights = tl.zeros([BLOCK_D, BLOCK_M], tl.float32), tl.zeros([64, BLOCK_M], tl.float32)
            peak = tl.full([BLOCK_M], _LOWEST, tl.float32)
    return total, total_weight, total_peak


@triton.jit(do_not_specialize=["num_seqs", "max_segments", "stride_table"])
def _attend_tokens(
    q, key_cache, value_cache, block_tables, query_starts, context_lens, unit_starts, out, sums, peaks,
    stride_q, stride_out, stride_block, stride_table, num_seqs, max_segments, scale, softcap, value_scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SEGMENT: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    ROWS: tl.constexpr, PLACES: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """One program's share of all units. A unit is a segment of a KV head of a sequence, segments first."""
    units = tl.load(unit_starts + num_seqs) * KV_HEADS
    share, is_cut = _shares(units, max_segments, PLACES)
    first_place = tl.program_id(0) * (PLACES + 1)
    begin = tl.program_id(0) * share
    unit, end = begin, tl.minimum(begin + share, units)
    rows = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    s = tl.arange(0, BLOCK_S)
    ends = tl.load(unit_starts + 1 + s, mask=s < num_seqs, other=2147483647)
    while unit < end:
        seq, head, item_begin, item_end = _item_of(unit, ends, unit_starts, KV_HEADS)
        first = unit - item_begin
        stop = item_end
        if is_cut:
            stop = tl.minimum(item_end, end)
        if is_cut | (first == 0):
            start = tl.load(query_starts + seq)
            count = tl.load(query_starts + seq + 1) - start
            context = tl.load(context_lens + seq)
            lowest = context - count
            position = lowest + rows // GROUP
            at = (start + rows // GROUP).to(tl.int64)
            inner = (head * GROUP + rows % GROUP)[None, :] * D + d[:, None]
            is_row = (rows < count * GROUP)[None, :] & (d[:, None] < D)
            tile_of_q = tl.load(q + at[None, :] * stride_q + inner, mask=is_row, other=0.0)
            if key_cache.dtype.element_ty.primitive_bitwidth == 8:
                tile_of_q = tile_of_q.to(tl.float16)
            segment = first
            first_tile = segment * (SEGMENT // BLOCK_N)
            if WINDOW:
                seen = tl.maximum(lowest - WINDOW + 1, 0)
                segment += seen // SEGMENT
                first_tile = tl.maximum(segment * (SEGMENT // BLOCK_N), seen // BLOCK_N)
            last_tile = tl.minimum((segment + stop - unit) * (SEGMENT // BLOCK_N), tl.cdiv(context, BLOCK_N))
            place = (first_place + unit - begin).to(tl.int64)
            total, weight, peak = _fold_tokens(
                tile_of_q, key_cache, value_cache, block_tables + seq.to(tl.int64) * stride_table,
                sums + place * (ROWS * D), peaks + place * (2 * ROWS),
                position, context, first_tile, last_tile, first == 0, count * GROUP,
                stride_block, head, scale, softcap,
                D, BLOCK_D, PAGE, BLOCK_M, BLOCK_N, SEGMENT, WINDOW, SOFTCAP, ROWS,
            )  # fmt: skip
            if first == 0:
                if stop == item_end:
                    result = total / weight[None, :] * value_scale
                    tl.store(out + at[None, :] * stride_out + inner, result.to(out.dtype.element_ty), mask=is_row)
                else:
                    last = (first_place + PLACES).to(tl.int64)
                    tl.store(sums + last * (ROWS * D) + rows[None, :] * D + d[:, None], total, mask=is_row)
                    tl.store(peaks + last * (2 * ROWS) + rows, peak, mask=rows < count * GROUP)
                    tl.store(peaks + last * (2 * ROWS) + ROWS + rows, weight, mask=rows < count * GROUP)
        unit = stop


@triton.jit(do_not_specialize=["num_seqs", "max_segments"])
def _add_segments(
    query_starts, unit_starts, out, sums, peaks, stride_out, num_seqs, max_segments, value_scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, PLACES: tl.constexpr,
    TOKENS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_S: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Where a program began a sequence's head and others went on: adds what all have, in order, for one query head of
    the group and BLOCK_D features. A program can have left only its last one unfinished."""
    owner, member, d = tl.program_id(0), tl.program_id(1), tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    s = tl.arange(0, BLOCK_S)
    ends = tl.load(unit_starts + 1 + s, mask=s < num_seqs, other=2147483647)
    units = tl.load(unit_starts + num_seqs) * KV_HEADS
    share, is_cut = _shares(units, max_segments, PLACES)
    after = (owner + 1) * share
    if (after < units) & is_cut:
        seq, head, begin, end = _item_of(after - 1, ends, unit_starts, KV_HEADS)
        start = tl.load(query_starts + seq)
        count = tl.load(query_starts + seq + 1) - start
        if (begin < owner * share) | (end <= after):
            count = 0  # begun by an earlier program, or finished by this one
        # The first program has the sum of all up to the end of its share; behind it each segment has its own place.
        place = (owner * (PLACES + 1) + PLACES).to(tl.int64)
        for token in range(count):
            row = token * GROUP + member
            p = tl.arange(0, BLOCK_P)
            peak = tl.load(peaks + place * (2 * ROWS) + row)
            for chunk in range(after, end, BLOCK_P):
                others = (chunk + p) // share * (PLACES + 1) + (chunk + p) % share
                found = tl.load(peaks + others.to(tl.int64) * (2 * ROWS) + row, mask=chunk + p < end, other=_LOWEST)
                peak = tl.maximum(peak, tl.max(found, 0))
            factor = tl.exp2(tl.load(peaks + place * (2 * ROWS) + row) - peak)
            weight = tl.load(peaks + place * (2 * ROWS) + ROWS + row) * factor
            total = tl.load(sums + (place * ROWS + row) * D + d, mask=d < D, other=0.0) * factor
            for chunk in range(after, end, UNROLL):
                for ahead in tl.static_range(UNROLL):  # so that several loads are under way
                    unit = chunk + ahead
                    other = (unit // share * (PLACES + 1) + unit % share).to(tl.int64)
                    factor = tl.exp2(tl.load(peaks + other * (2 * ROWS) + row, mask=unit < end, other=_LOWEST) - peak)
                    weight += tl.load(peaks + other * (2 * ROWS) + ROWS + row, mask=unit < end, other=0.0) * factor
                    at = sums + (other * ROWS + row) * D + d
                    total += tl.load(at, mask=(unit < end) & (d < D), other=0.0) * factor
            result = (total / weight * value_scale).to(out.dtype.element_ty)
            at = (start + token).to(tl.int64) * stride_out + (head * GROUP + member) * D + d
            tl.store(out + at, result, mask=d < D)
    for seq in range(owner, num_seqs, tl.num_programs(0)):
        start = tl.load(query_starts + seq)
        count = tl.load(query_starts + seq + 1) - start
        if (count <= TOKENS) & (tl.load(unit_starts + seq) == tl.load(unit_starts + seq + 1)):  # fills up a batch
            for token in range(count):
                for head in range(KV_HEADS):
                    at = (start + token).to(tl.int64) * stride_out + (head * GROUP + member) * D + d
                    tl.store(out + at, tl.zeros([BLOCK_D], out.dtype.element_ty), mask=d < D)


@triton.jit(do_not_specialize=["num_seqs"])
def _count_units(
    query_starts, context_lens, unit_starts, num_seqs,
    TOKENS: tl.constexpr, SEGMENT: tl.constexpr, WINDOW: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """unit_starts [S + 1]: how many segments the sequences of 1 to TOKENS queries before each one see."""
    s = tl.arange(0, BLOCK_S)
    is_seq = s < num_seqs
    count = tl.load(query_starts + s + 1, mask=is_seq, other=0) - tl.load(query_starts + s, mask=is_seq, other=0)
    context = tl.load(context_lens + s, mask=is_seq, other=0)
    segments = tl.cdiv(context, SEGMENT)
    if WINDOW:
        segments -= tl.maximum(context - count - WINDOW + 1, 0) // SEGMENT
    segments = tl.where(is_seq & (count > 0) & (count <= TOKENS), segments, 0)
    tl.store(unit_starts + 1 + s, tl.cumsum(segments, 0), mask=is_seq)
    tl.store(unit_starts + s, tl.zeros([BLOCK_S], tl.int32), mask=s == 0)


@triton.jit(do_not_specialize=["stride_table"])
def _attend_chunks(
    q, key_cache, value_cache, block_tables, query_starts, context_lens, tiles, out,
    stride_q, stride_out, stride_block, stride_table, scale, softcap, value_scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SEGMENT: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
):  # fmt: skip
    """One tile of one sequence's queries, for one KV head; the whole context that it sees."""
    head, tile = tl.program_id(0) % KV_HEADS, tl.program_id(0) // KV_HEADS
    seq = tl.load(tiles + 2 * tile)
    if seq >= 0:
        tokens: tl.constexpr = BLOCK_M // GROUP
        first = tl.load(tiles + 2 * tile + 1)
        start = tl.load(query_starts + seq)
        count = tl.load(query_starts + seq + 1) - start
        context = tl.load(context_lens + seq)
        last = tl.minimum(first + tokens, count)
        rows = tl.arange(0, BLOCK_M)
        d = tl.arange(0, BLOCK_D)
        lowest, highest = context - count + first, context - count + last - 1
        position = lowest + rows // GROUP
        at = (start + first + rows // GROUP).to(tl.int64)
        inner = (head * GROUP + rows % GROUP)[:, None] * D + d[None, :]
        is_row = (rows < (last - first) * GROUP)[:, None] & (d[None, :] < D)
        tile_of_q = tl.load(q + at[:, None] * stride_q + inner, mask=is_row, other=0.0)
        if key_cache.dtype.element_ty.primitive_bitwidth == 8:
            tile_of_q = tile_of_q.to(tl.float16)
        total, weight = _fold_chunk(
            tile_of_q, key_cache, value_cache, block_tables + seq.to(tl.int64) * stride_table,
            position, lowest, highest, context, stride_block, head, scale, softcap,
            D, BLOCK_D, PAGE, BLOCK_M, BLOCK_N, SEGMENT, WINDOW, SOFTCAP,
        )  # fmt: skip
        result = total / weight[:, None] * value_scale
        tl.store(out + at[:, None] * stride_out + inner, result.to(out.dtype.element_ty), mask=is_row)
