"""The loops that multiply rows by a weight's rows: of few rows, bound by memory, and of many, bound by tensor cores.

``thin_sums``: few rows meet a tile of weights. The weight is the instruction's first operand and the rows, at least 8,
its second. Each warp sums a slice of K by itself, every SLICES-th run of DEPTH, so that small tiles, which spread over
all multiprocessors, still keep four warps and much memory in flight; at the end slices are added up. ``wide_sums``: a
tile of rows meets a tile of weights in the large instructions of Hopper.

Law, batch invariance: SLICES and DEPTH follow from K and the kind of numbers alone, so that in a regime a row's bits
depend on nothing but itself. The two regimes may round differently; which one runs depends on the number of rows.

KIND: "plain" (both operands of one float dtype), "rows" (8 bits, scales at the end, by the caller), "blocks" (e4m3,
scales for 128 features of a row and for 128 x 128 of the weight). ROUNDS: rows come unrounded, and are rounded on the
way to the bits that the operators of ``quantize`` give: with "rows" by the one scale at ``x_scale``, with "blocks",
where DEPTH is 128, by their own.

Scales of the next step are fetched while this one is multiplied: nobody else would fetch them ahead.

Pointers: ``x_at`` [M] and ``w_at`` [N] are the places of the rows' first elements, int64 where they may be far apart;
``xs_at`` [M] those of their scales, and ``ws_at`` the one of the weights', which lie in one row of blocks. What lies
outside ``is_row`` is not read. IS_EVEN: K is a multiple of what an iteration takes.
"""

import triton
import triton.language as tl


@triton.jit
def round_to_fp8(x, scale):
    """As ``quantize_fp8``: e4m3 of x / scale, clipped."""
    return tl.minimum(tl.maximum(x * tl.div_rn(1.0, scale), -448.0), 448.0).to(tl.float8e4nv)


@triton.jit
def round_to_int8(x, scale):
    """As ``quantize_int8``: to the nearest, ties to even."""
    y = tl.minimum(tl.maximum(x * tl.div_rn(1.0, scale), -127.0), 127.0)
    return ((y + 12582912.0) - 12582912.0).to(tl.int8)  # 1.5 * 2^23: behind it there are no halves


@triton.jit
def fp8_scale(greatest):
    """As ``quantize_fp8``: the scale of numbers no greater than these."""
    return tl.div_rn(tl.maximum(greatest, 1e-10), 448.0)


@triton.jit
def gated(gate, up, ACTIVATION: tl.constexpr):
    """activation(gate) * up in float32. Of gelu, (1 + tanh u) / 2 is written as 1 / (1 + exp(-2u))."""
    if ACTIVATION == "silu":
        return gate / (1.0 + tl.exp(-gate)) * up
    inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
    return gate / (1.0 + tl.exp(-2.0 * inner)) * up


@triton.jit
def block_scales(scales, k, first, num_in):
    """[SLICES]: of the blocks that lie at k + first in a row of them, 0 behind its end."""
    return tl.load(scales + (k + first) // 128, k + first < num_in, other=0.0)


@triton.jit
def row_scales(x_scale, xs_at, is_row, k, first, num_in):
    """[SLICES, M]: of the rows' groups there."""
    there = (k + first < num_in)[:, None] & is_row[None, :]
    return tl.load(x_scale + xs_at[None, :] + ((k + first) // 128)[:, None], there, other=0.0)


@triton.jit
def thin_sums(
    x, x_scale, weight, weight_scale, x_at, xs_at, is_row, w_at, ws_at, num_in, KIND: tl.constexpr,
    ROUNDS: tl.constexpr, IS_EVEN: tl.constexpr, SLICES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """[N, M] float32, or int32 of int8: every weight row by every row of x."""
    STEP: tl.constexpr = SLICES * DEPTH
    SUMS: tl.constexpr = tl.int32 if weight.dtype.element_ty == tl.int8 else tl.float32
    first = tl.arange(0, SLICES) * DEPTH
    column = first[:, None] + tl.arange(0, DEPTH)[None, :]
    x_from = x + x_at[None, :, None] + column[:, None, :]
    w_from = weight + w_at[None, :, None] + column[:, None, :]
    total = tl.zeros([SLICES, w_at.shape[0], x_at.shape[0]], SUMS)
    if KIND == "blocks":
        next_weights = block_scales(weight_scale + ws_at, 0, first, num_in)
        if not ROUNDS:
            next_rows = row_scales(x_scale, xs_at, is_row, 0, first, num_in)
    for k in range(0, num_in, STEP):
        if IS_EVEN:
            rows = tl.load(x_from + k, is_row[None, :, None], other=0.0)
            weights = tl.load(w_from + k)
        else:
            inside = (k + column < num_in)[:, None, :]
            rows = tl.load(x_from + k, inside & is_row[None, :, None], other=0.0)
            weights = tl.load(w_from + k, inside, other=0.0)
        if KIND == "blocks":
            of_weights = next_weights
            next_weights = block_scales(weight_scale + ws_at, k + STEP, first, num_in)
            if ROUNDS:
                wide = rows.to(tl.float32)
                of_rows = fp8_scale(tl.max(tl.abs(wide), 2))
                rows = round_to_fp8(wide, of_rows[:, :, None])
            else:
                of_rows = next_rows
                next_rows = row_scales(x_scale, xs_at, is_row, k + STEP, first, num_in)
            part = tl.dot(weights, rows.trans(0, 2, 1))
            total += part * (of_weights[:, None] * of_rows)[:, None, :]
        else:
            if ROUNDS and SUMS == tl.int32:  # noqa: SIM300
                rows = round_to_int8(rows.to(tl.float32), tl.load(x_scale))
            elif ROUNDS:
                rows = round_to_fp8(rows.to(tl.float32), tl.load(x_scale))
            total = tl.dot(weights, rows.trans(0, 2, 1), total, input_precision="tf32x3", out_dtype=SUMS)
    return tl.sum(total, 0)


@triton.jit
def thin_sums_of_two(
    x, x_scale, weight, weight_scale, x_at, xs_at, is_row, w_at, ws_at, up_at, ups_at, num_in, KIND: tl.constexpr,
    ROUNDS: tl.constexpr, IS_EVEN: tl.constexpr, SLICES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """``thin_sums`` of two tiles of weights, gates and ups, for one reading of the rows; not of int8."""
    STEP: tl.constexpr = SLICES * DEPTH
    first = tl.arange(0, SLICES) * DEPTH
    column = first[:, None] + tl.arange(0, DEPTH)[None, :]
    x_from = x + x_at[None, :, None] + column[:, None, :]
    gate_from = weight + w_at[None, :, None] + column[:, None, :]
    up_from = weight + up_at[None, :, None] + column[:, None, :]
    gate = tl.zeros([SLICES, w_at.shape[0], x_at.shape[0]], tl.float32)
    up = tl.zeros([SLICES, w_at.shape[0], x_at.shape[0]], tl.float32)
    if KIND == "blocks":
        next_gates = block_scales(weight_scale + ws_at, 0, first, num_in)
        next_ups = block_scales(weight_scale + ups_at, 0, first, num_in)
        if not ROUNDS:
            next_rows = row_scales(x_scale, xs_at, is_row, 0, first, num_in)
    for k in range(0, num_in, STEP):
        if IS_EVEN:
            rows = tl.load(x_from + k, is_row[None, :, None], other=0.0)
            gates, ups = tl.load(gate_from + k), tl.load(up_from + k)
        else:
            inside = (k + column < num_in)[:, None, :]
            rows = tl.load(x_from + k, inside & is_row[None, :, None], other=0.0)
            gates, ups = tl.load(gate_from + k, inside, other=0.0), tl.load(up_from + k, inside, other=0.0)
        if KIND == "blocks":
            of_gates, of_ups = next_gates, next_ups
            next_gates = block_scales(weight_scale + ws_at, k + STEP, first, num_in)
            next_ups = block_scales(weight_scale + ups_at, k + STEP, first, num_in)
            if ROUNDS:
                wide = rows.to(tl.float32)
                of_rows = fp8_scale(tl.max(tl.abs(wide), 2))
                rows = round_to_fp8(wide, of_rows[:, :, None])
            else:
                of_rows = next_rows
                next_rows = row_scales(x_scale, xs_at, is_row, k + STEP, first, num_in)
            columns = rows.trans(0, 2, 1)
            gate += tl.dot(gates, columns) * (of_gates[:, None] * of_rows)[:, None, :]
            up += tl.dot(ups, columns) * (of_ups[:, None] * of_rows)[:, None, :]
        else:
            if ROUNDS:
                rows = round_to_fp8(rows.to(tl.float32), tl.load(x_scale))
            columns = rows.trans(0, 2, 1)
            gate = tl.dot(gates, columns, gate, input_precision="tf32x3")
            up = tl.dot(ups, columns, up, input_precision="tf32x3")
    return tl.sum(gate, 0), tl.sum(up, 0)


@triton.jit
def wide_sums(
    x, x_scale, weight, weight_scale, x_at, xs_at, is_row, w_at, ws_at, num_in, KIND: tl.constexpr,
    IS_EVEN: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """[M, N] float32, or int32 of int8. With "blocks", DEPTH is 128.

    The instruction for e4m3 sums with some 14 bits; what it summed is added up in float32 after every 128.
    """
    SUMS: tl.constexpr = tl.int32 if weight.dtype.element_ty == tl.int8 else tl.float32
    column = tl.arange(0, DEPTH)
    x_from = x + x_at[:, None] + column[None, :]
    w_from = weight + w_at[:, None] + column[None, :]
    total = tl.zeros([x_at.shape[0], w_at.shape[0]], SUMS)
    if KIND == "blocks":
        next_scales = tl.load(x_scale + xs_at, is_row, other=0.0) * tl.load(weight_scale + ws_at)
    for k in range(0, num_in, DEPTH):
        if KIND == "blocks":
            scales = next_scales
            there = k + DEPTH < num_in
            of_rows = tl.load(x_scale + xs_at + (k + DEPTH) // 128, is_row & there, other=0.0)
            next_scales = of_rows * tl.load(weight_scale + ws_at + (k + DEPTH) // 128, there, other=0.0)
        if IS_EVEN:
            rows = tl.load(x_from + k, is_row[:, None], other=0.0)
            weights = tl.load(w_from + k)
        else:
            inside = (k + column < num_in)[None, :]
            rows = tl.load(x_from + k, inside & is_row[:, None], other=0.0)
            weights = tl.load(w_from + k, inside, other=0.0)
        if KIND == "blocks":
            total += tl.dot(rows, weights.T) * scales[:, None]
        elif weight.dtype.element_ty == tl.float8e4nv:
            total = tl.dot(rows, weights.T, total, max_num_imprecise_acc=128)
        else:
            total = tl.dot(rows, weights.T, total, input_precision="tf32x3", out_dtype=SUMS)
    return total


@triton.jit
def grouped_order(program, num_row_tiles, num_out_tiles, GROUP: tl.constexpr):
    """Which tile a program takes: GROUP tiles of rows share the weights that lie in the cache. (row tile, out tile)."""
    in_group = GROUP * num_out_tiles
    first = program // in_group * GROUP
    height = tl.minimum(num_row_tiles - first, GROUP)
    return first + program % in_group % height, program % in_group // height
