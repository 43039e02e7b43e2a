"""Operators by themselves, at the shapes of real models: time, and what of the device's limits that is.

Bytes are those that must move: inputs read once, results written once; of experts, those that the rows meet.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from benchmarks.gpu.calls import F32, Call, Maker, tensors_in
from benchmarks.gpu.cases_attention import Step, attention
from benchmarks.gpu.cases_experts import mlp
from benchmarks.gpu.cases_products import fp8_weight, w4_weight
from benchmarks.gpu.check_ops import all_cases
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.roofline import Limits
from benchmarks.gpu.timing import measure, num_copies
from torch import Tensor

from quire.kernels import ops as ops_room
from quire.kernels.ops.attention import paged_attention
from quire.kernels.ops.registry import all_ops
from quire.kernels.ops.sampling import Draws, TorchSampling

_SMALL = ("rms_norm", "silu_and_mul", "store_heads", "quantize_fp8", "route", "align", "combine", "embedding")
"""Operators that are timed in the cases in which they are checked."""


class Work(NamedTuple):
    """One operator at one shape."""

    op: str
    name: str
    make: Callable[[Maker], Call]
    flops: Callable[[Call], float] = lambda call: 0.0
    num_bytes: Callable[[Call], float] | None = None
    """None: all tensors given, and what is returned."""
    itemsize: int = 2
    """Of what is multiplied."""
    prepare: Callable[[Call], Callable[[], object]] | None = None
    """What runs the call as a step does; None: the operator itself."""


def run(names: Sequence[str], device: torch.device, limits: Limits, seconds: float, journal: Journal) -> None:
    """Time all works of some operators, as far as ``seconds`` go. ``limits`` of the device."""
    ends, found = time.monotonic() + seconds, all_ops(ops_room)
    late, failed = [], []
    for work in (work for work in works() if work.op in names):
        if time.monotonic() > ends:
            late.append(f"{work.op} {work.name}")
            continue
        try:
            _time(work, found.get(work.op), device, limits, journal)
        except Exception as error:
            failed.append(f"{work.op} {work.name}")
            journal.row("operators", op=work.op, case=work.name, note=f"{type(error).__name__}: {str(error)[:200]}")
        if device.type == "cuda":
            torch.cuda.empty_cache()
    assert not late, f"no time was left for {len(late)}: {', '.join(late)}"
    assert not failed, f"{len(failed)} failed: {', '.join(failed)}"


def _time(work: Work, one: Any, device: torch.device, limits: Limits, journal: Journal) -> None:
    maker = Maker(work.name, device, is_tiny=device.type != "cuda")
    first = work.make(maker)
    prepare = work.prepare or (lambda call: partial(one, *call.args, **call.kwargs))
    with torch.inference_mode():
        returned = prepare(first)()
    moved = work.num_bytes(first) if work.num_bytes else _bytes(first.args) + _bytes(returned)
    del returned
    calls = [first, *(work.make(maker) for _ in range(num_copies(_bytes(first.args)) - 1))]
    with torch.inference_mode():
        prepared = [prepare(call) for call in calls]
    timing = measure(prepared, device)
    flops = work.flops(first)
    floor = limits.seconds(moved, flops, work.itemsize)
    journal.row(
        "operators",
        op=work.op,
        case=work.name,
        us=1e6 * timing.seconds,
        gb_per_s=moved / timing.seconds / 1e9,
        tflop_per_s=flops / timing.seconds / 1e12,
        share=floor / timing.seconds,
        bound="products" if flops / limits.rate(work.itemsize) > moved / limits.bytes_per_s else "bytes",
        recorded=timing.is_recorded,
    )


def works() -> list[Work]:
    found = [
        Work(case.op, case.name, case.make)
        for case in all_cases()
        if case.op in _SMALL and any(f"{many} rows" in case.name for many in (64, 256, 2048, 8192))
    ]
    for rows in (1, 8, 16, 32, 64, 256, 4096):
        found += _products(rows)
    for rows in (1, 8, 64, 256):
        found.append(Work("logits", f"Llama, {rows} rows", partial(_logits, rows), _matmul))
        found.append(Work("likeliest_of", f"Llama, {rows} rows", partial(_likeliest, rows)))
    for rows in (1, 64, 256):
        for is_cut in (False, True):
            name = f"Llama, {rows} rows{', top_k, top_p' if is_cut else ''}"
            found.append(Work("draw", name, partial(_draws, rows, is_cut), num_bytes=_drawn_bytes, prepare=_draw))
    for context in (1024, 4096, 16384):
        found += [_tokens(model, batch, context) for model in ("llama", "qwen") for batch in (1, 8, 64)]
    chunks = [(1024, 1024), (4096, 4096), (8192, 8192), (2048, 16384)]
    return found + [_chunk(model, *chunk) for model in ("llama", "qwen") for chunk in chunks]


def operators() -> list[str]:
    return list(dict.fromkeys(work.op for work in works()))


def _products(rows: int) -> list[Work]:
    many = f"{rows} rows"
    found = [
        Work("linear", f"Llama qkv, {many}", partial(_linear, rows), _matmul),
        Work("gated_linear", f"Llama, {many}", partial(_gated, rows), _matmul),
        Work("fp8_linear", f"Llama gate and up, blocks, {many}", partial(_fp8, rows, "blocks"), _matmul, None, 1),
        Work("fp8_linear", f"Llama gate and up, rows, {many}", partial(_fp8, rows, "rows"), _matmul, None, 1),
        Work("fp8_gated_linear", f"Llama, blocks, {many}", partial(_fp8_gated, rows), _matmul, None, 1),
        Work("w4a16_linear", f"Llama down, {many}", partial(_w4, rows), _w4_flops),
    ]
    for kind, itemsize in ((None, 2), ("blocks", 1)):
        name = f"Qwen3-30B-A3B {'bfloat16' if kind is None else 'e4m3'}, {many}"
        found.append(Work("experts_mlp", name, partial(_mlp, rows, kind), _mlp_flops, _mlp_bytes, itemsize))
    return found


def _linear(rows: int, m: Maker) -> Call:
    sizes = m.models["llama"]
    num_out = (sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim
    return Call((m.normal(m.size(rows, 2), sizes.hidden), m.weight(num_out, sizes.hidden)))


def _gated(rows: int, m: Maker) -> Call:
    sizes = m.models["llama"]
    return Call((m.normal(m.size(rows, 2), sizes.hidden), m.weight(2 * sizes.ffn, sizes.hidden), "silu"))


def _fp8(rows: int, kind: str, m: Maker) -> Call:
    sizes = m.models["llama"]
    return Call((m.normal(m.size(rows, 2), sizes.hidden), *fp8_weight(m, 2 * sizes.ffn, sizes.hidden, kind)))


def _fp8_gated(rows: int, m: Maker) -> Call:
    call = _fp8(rows, "blocks", m)
    return Call((*call.args, "silu"))


def _w4(rows: int, m: Maker) -> Call:
    sizes = m.models["llama"]
    weight = w4_weight(m, sizes.hidden, sizes.ffn, 128, True, torch.bfloat16)
    return Call((m.normal(m.size(rows, 2), sizes.ffn), weight))


def _mlp(rows: int, kind: str | None, m: Maker) -> Call:
    return mlp(m, m.size(rows, 2), kind)


def _logits(rows: int, m: Maker) -> Call:
    sizes = m.models["llama"]
    return Call((m.normal(m.size(rows, 2), sizes.hidden), m.weight(sizes.vocab, sizes.hidden), None))


def _likeliest(rows: int, m: Maker) -> Call:
    return Call((m.normal(m.size(rows, 2), m.models["llama"].vocab, dtype=F32),))


def _matmul(call: Call) -> float:
    x, weight = call.args[:2]
    return 2.0 * len(x) * weight.numel()


def _w4_flops(call: Call) -> float:
    return 2.0 * len(call.args[0]) * call.args[1].num_out * call.args[1].num_in


def _mlp_flops(call: Call) -> float:
    _, up, down, _, experts = call.args[:5]
    return 2.0 * experts.numel() * (up[0].numel() + down[0].numel())


def _mlp_bytes(call: Call) -> float:
    x, up, down, _, experts, _, *_ = call.args
    met = len(experts.unique())
    return met * (_bytes(up[0]) + _bytes(down[0])) + 3 * _bytes(x)


def _tokens(model: str, batch: int, context: int) -> Work:
    def make(m: Maker) -> Call:
        count = m.size(batch, 2)
        return attention(m, model, Step([1] * count, [m.size(context, 40)] * count))

    name = f"{model}, {batch} tokens at {context}"
    return Work("paged_attention", name, make, _attention_flops, _attention_bytes, prepare=_attend)


def _chunk(model: str, tokens: int, context: int) -> Work:
    def make(m: Maker) -> Call:
        return attention(m, model, Step([m.size(tokens, 5)], [m.size(context, 40)]))

    name = f"{model}, a chunk of {tokens} to {context}"
    return Work("paged_attention", name, make, _attention_flops, _attention_bytes, prepare=_attend)


def _attend(call: Call) -> Callable[[], object]:
    """One layer of a step that was planned before: what changes with a step lies ready on the device."""
    if not call.args[0].is_cuda:
        return partial(paged_attention, *call.args, **call.kwargs)
    return attend_planned(call)


def attend_planned(call: Call) -> Callable[[], object]:
    """The same by Triton's kernels, on whatever device; returns a call that fills and returns its result."""
    from quire.kernels.triton import attention as kernels

    q, keys, values, tables, starts, lens = call.args
    cache, group = kernels.Cache(keys, values, call.kwargs["scale"]), q.shape[1] // keys.shape[1]
    out, where = torch.empty_like(q), (tables, starts, lens)
    counts, host_lens = starts.diff().cpu().numpy(), lens.cpu().numpy()
    if counts.max() > 1:
        tiles = torch.from_numpy(kernels.chunk_tiles(counts, host_lens, kernels.chunk_rows(group, q.shape[2], q.dtype)))
        attend = partial(kernels.attend_chunks, q, cache, *where, tiles.to(q.device), out)
    else:
        units, context = torch.empty_like(starts), int(host_lens.max())
        kernels.count_units(starts, lens, units)
        scratch = kernels.Scratch.make(
            q.device, kernels.programs_of(q.device), rows=group, head_dim=q.shape[2], max_context=context
        )
        attend = partial(kernels.attend_tokens, q, cache, *where, units, scratch, out, tokens=1, max_context=context)

    def run() -> Tensor:
        attend()
        return out

    return run


def _draws(rows: int, is_cut: bool, m: Maker) -> Call:
    count, size = m.size(rows, 2), m.models["llama"].vocab
    draws = Draws(
        temperature=np.full(count, 0.8, np.float32),
        log_min_p=np.full(count, -np.inf, np.float32),
        top_k=np.full(count, min(50, size) if is_cut else size),
        top_p=np.full(count, 0.9 if is_cut else 1.0),
        uniforms=np.random.default_rng(0).random(count),
    )
    return Call((m.normal(count, size, std=3.0, dtype=F32), draws, is_cut))


def _draw(call: Call) -> Callable[[], object]:
    logits, draws, is_cut = call.args
    if not logits.is_cuda:
        return lambda: TorchSampling().draw_tokens(logits.clone(), draws)
    from quire.kernels.triton.sampling import DeviceDraws, TritonSampling

    wishes = replace(DeviceDraws.of(draws, logits.device), has_cut=is_cut)
    return lambda: TritonSampling().draw(logits, wishes)


def _drawn_bytes(call: Call) -> float:
    return _bytes(call.args[0])


def _attention_bytes(call: Call) -> float:
    q, keys, _, _, _, lens = call.args
    return 2.0 * int(lens.sum()) * keys.shape[1] * keys.shape[3] * keys.itemsize + 2 * _bytes(q)


def _attention_flops(call: Call) -> float:
    q, _, _, _, starts, lens = call.args
    counts = starts.diff()
    pairs = counts * lens - counts * (counts - 1) // 2
    return 4.0 * q.shape[1] * q.shape[2] * int(pairs.sum())


def _bytes(value: Any) -> float:
    if isinstance(value, Tensor):
        return float(value.numel() * value.itemsize)
    if hasattr(value, "__dataclass_fields__"):
        value = tuple(getattr(value, name) for name in value.__dataclass_fields__)
    return float(sum(tensor.numel() * tensor.itemsize for tensor in tensors_in(value)))
