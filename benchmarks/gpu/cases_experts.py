"""A mixture of experts: routing, sorting, grouped products, and all of it at once."""

from functools import partial

from benchmarks.gpu.calls import F32, Call, Case, Maker, half_of, some_rows
from benchmarks.gpu.cases_products import fp8_weight
from torch import Tensor

from quire.kernels.ops.moe import ExpertTiles, Routing

ROWS = ((1, 1), (4, 2), (5, 3), (64, 6), (300, 9), (2048, 20), (8192, 40))
_FP8_TOLERANCE = 3e-2
"""A hidden feature rounded to 16 bits first may round to another e4m3 number."""


def _logits(m: Maker, num_rows: int, num_experts: int) -> Tensor:
    """Far enough apart for one order, whatever exp is used."""
    return m.normal(num_rows, num_experts, std=2.0)


def _route(rows: tuple[int, int], routing: Routing, has_bias: bool, m: Maker) -> Call:
    num_experts = m.size(256, 16) if routing.num_groups > 1 else m.models["qwen"].num_experts
    routing = routing._replace(top_k=min(routing.top_k, m.size(8, 2)))
    bias = m.normal(num_experts, std=0.1, dtype=F32) if has_bias else None
    call = Call((_logits(m, m.size(*rows), num_experts), routing, bias), tolerance=1e-5)
    call.alone = [some_rows(call, [0], [len(call.args[0]) - 1])]
    return call


def chosen(m: Maker, num_rows: int) -> tuple[Tensor, Tensor]:
    """Weights, and experts that differ within a row."""
    sizes = m.models["qwen"]
    experts = m.uniform(num_rows, sizes.num_experts).topk(sizes.top_k, -1).indices.int()
    return m.uniform(num_rows, sizes.top_k, low=0.05, high=0.3), experts


def _align(rows: tuple[int, int], size: int, m: Maker) -> Call:
    _, experts = chosen(m, m.size(*rows))
    experts[-1, 0] = -1

    def read(tiles: ExpertTiles) -> list[Tensor]:
        in_use = (tiles.experts >= 0).repeat_interleave(size)
        return [tiles.experts, tiles.pairs.where(in_use, -1)]

    return Call((experts, m.models["qwen"].num_experts, size), read=read, tolerance=0)


def _combine(rows: tuple[int, int], m: Maker) -> Call:
    sizes, num_rows = m.models["qwen"], m.size(*rows)
    weights, experts = chosen(m, num_rows)
    y, residual = m.normal(num_rows * sizes.top_k, sizes.hidden), m.normal(num_rows, sizes.hidden)
    return Call((y, weights, experts, sizes.num_experts, residual))


def stack(m: Maker, num_out: int, num_in: int, kind: str | None) -> tuple[Tensor, Tensor | None]:
    """All experts' matrices; with scales where ``kind`` is rows or blocks."""
    count = m.models["qwen"].num_experts
    if kind is None:
        return m.normal(count, num_out, num_in, std=num_in**-0.5), None
    weight, scale = fp8_weight(m, count * num_out, num_in, kind)
    if kind == "blocks":  # the matrices are whole blocks
        return weight.view(count, num_out, num_in), scale.view(count, -1, scale.shape[1])
    return weight.view(count, num_out, num_in), scale.view(count, num_out)


def _grouped(rows: tuple[int, int], kind: str | None, m: Maker) -> Call:
    sizes, num_rows = m.models["qwen"], m.size(*rows)
    weight, scale = stack(m, 2 * sizes.ffn, sizes.hidden, kind)
    _, experts = chosen(m, num_rows)
    tolerance = None if kind is None else 1e-2
    return Call((m.normal(num_rows, sizes.hidden), weight, experts, scale), tolerance=tolerance)


def mlp(m: Maker, num_rows: int, kind: str | None) -> Call:
    """A layer's experts, with a residual."""
    sizes = m.models["qwen"]
    (up, up_scale), (down, down_scale) = (
        stack(m, 2 * sizes.ffn, sizes.hidden, kind),
        stack(m, sizes.hidden, sizes.ffn, kind),
    )
    weights, experts = chosen(m, num_rows)
    x, residual = m.normal(num_rows, sizes.hidden), m.normal(num_rows, sizes.hidden)
    args = (x, up, down, weights, experts, "silu", up_scale, down_scale, residual)
    return Call(args, tolerance=8e-3 if kind is None else _FP8_TOLERANCE)


def _mlp(rows: tuple[int, int], kind: str | None, m: Maker) -> Call:
    """Rows are the same in another company of about as many; how products are cut goes by their number."""
    num_rows = m.size(*rows)
    call = mlp(m, num_rows, kind)
    kept = [num_rows - 1] if num_rows <= 4 else half_of(num_rows, num_rows)
    call.alone = [some_rows(call, (0, 3, 4, 8), kept)]
    return call


def cases() -> list[Case]:
    found = []
    for rows in ROWS:
        many = f"{rows[0]} rows"
        found += [
            Case("route", f"softmax, {many}", partial(_route, rows, Routing(8), False)),
            Case("align", f"tiles of 16, {many}", partial(_align, rows, 16)),
            Case("combine", many, partial(_combine, rows)),
            Case("experts_mlp", f"bfloat16, {many}", partial(_mlp, rows, None)),
            Case("experts_mlp", f"e4m3 in blocks, {many}", partial(_mlp, rows, "blocks")),
        ]
    few, some = ROWS[2], ROWS[4]
    grouped = Routing(8, "sigmoid", num_groups=8, top_groups=4, factor=2.5)
    found += [
        Case("route", "sigmoid, groups, bias", partial(_route, some, grouped, True)),
        Case("align", "tiles of 128", partial(_align, some, 128)),
        Case("grouped_linear", "bfloat16, few rows", partial(_grouped, few, None)),
        Case("grouped_linear", "bfloat16, 300 rows", partial(_grouped, some, None)),
        Case("grouped_linear", "e4m3 in blocks, few rows", partial(_grouped, few, "blocks")),
        Case("grouped_linear", "e4m3 by rows, 300 rows", partial(_grouped, some, "rows")),
        Case("experts_mlp", "e4m3 by rows, 300 rows", partial(_mlp, some, "rows")),
    ]
    return found
