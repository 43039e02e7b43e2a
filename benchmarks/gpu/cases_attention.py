"""Attention over pages, of keys and values or of latents: single tokens, chunks, both; contexts as far as 32k."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from benchmarks.gpu.calls import BF16, F16, F32, Call, Case, Maker
from benchmarks.gpu.cases_rows import pages
from torch import Tensor


class Step(NamedTuple):
    """A step's sequences: new tokens of each, and tokens in all."""

    counts: Sequence[int]
    contexts: Sequence[int]

    @classmethod
    def of(cls, *pairs: tuple[int, int]) -> "Step":
        return cls(*zip(*pairs, strict=True))


LENGTHS = (1, 15, 16, 17, 63, 64, 65, 255, 256, 257, 511, 1000, 1024, 4097, 16384, 32768)


def attention(
    m: Maker,
    model: str,
    step: Step,
    block: int = 16,
    dtype: torch.dtype = BF16,
    pages_dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> Call:
    """Of random pages, in random order."""
    sizes = m.models[model]
    tables, count = _tables(step, block, m)
    cache = partial(pages, m, count, sizes.kv_heads, block, sizes.head_dim, pages_dtype or dtype)
    q = m.normal(sum(step.counts), sizes.heads, sizes.head_dim, dtype=dtype)
    args = (q, cache(), cache(), tables, _starts(step, m), _int32(step.contexts, m))
    return Call(args, {"scale": sizes.head_dim**-0.5} | kwargs)


def latents(m: Maker, heads: int, step: Step, block: int = 64) -> Call:
    """Of latents of 512 features and 64 turned ones."""
    num_latents, turned = m.size(512, 32), m.size(64, 16)
    tables, count = _tables(step, block, m)
    cache = m.normal(count, block, num_latents + turned)
    q = m.normal(sum(step.counts), heads, num_latents + turned)
    args = (q, cache, tables, _starts(step, m), _int32(step.contexts, m))
    return Call(args, {"num_latents": num_latents, "scale": (num_latents + turned) ** -0.5})


def _tables(step: Step, block: int, m: Maker) -> tuple[Tensor, int]:
    """Block tables in random order, and how many blocks there are."""
    needs = [-(-context // block) for context in step.contexts]
    count = sum(needs) + 2
    order = m.permutation(count).int()
    tables = torch.zeros((len(needs), max(needs)), dtype=torch.int32, device=m.device)
    first = 0
    for row, need in enumerate(needs):
        tables[row, :need] = order[first : first + need]
        first += need
    return tables, count


def _starts(step: Step, m: Maker) -> Tensor:
    return _int32([sum(step.counts[:i]) for i in range(len(step.counts) + 1)], m)


def _int32(values: Sequence[int], m: Maker) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int32, device=m.device)


def _with_some_alone(call: Call, step: Step, m: Maker) -> Call:
    """Three sequences by themselves; of a chunk also its last token, and its last half."""
    q, *caches, tables, starts, _ = call.args
    ends, alone = starts.tolist(), []
    for row in sorted({0, len(step.counts) // 2, len(step.counts) - 1}):
        for count in sorted({step.counts[row], max(1, step.counts[row] // 2), 1}):
            part = Step([count], [step.contexts[row]])
            rows = slice(ends[row + 1] - count, ends[row + 1])
            args = (q[rows].contiguous(), *caches, tables[row : row + 1])
            alone.append((Call((*args, _starts(part, m), _int32(part.contexts, m)), call.kwargs), rows))
    call.alone = alone
    return call


def _case(model: str, real: Step, tiny: Step, m: Maker, **kwargs: Any) -> Call:
    step = tiny if m.is_tiny else real
    return _with_some_alone(attention(m, model, step, **kwargs), step, m)


def _latent_case(heads: int, real: Step, tiny: Step, m: Maker, **kwargs: Any) -> Call:
    step = tiny if m.is_tiny else real
    return _with_some_alone(latents(m, heads, step, **kwargs), step, m)


def cases() -> list[Case]:
    def case(name: str, model: str, real: Step, tiny: Step, **kwargs: Any) -> Case:
        return Case("paged_attention", name, partial(_case, model, real, tiny, **kwargs))

    def latent_case(name: str, heads: int, real: Step, tiny: Step, **kwargs: Any) -> Case:
        return Case("latent_attention", name, partial(_latent_case, heads, real, tiny, **kwargs))

    singles = Step([1] * len(LENGTHS), LENGTHS)
    tiny_singles = Step.of((1, 1), (1, 17), (1, 40))
    mixed = Step.of((1, 1000), (300, 300), (1, 4097), (77, 2000), (1024, 5000), (1, 1), (2, 33))
    tiny_mixed = Step.of((1, 20), (5, 9), (2, 33))
    return [
        case("Llama, single tokens to 32k", "llama", singles, tiny_singles),
        case("Llama, one token of 32k", "llama", Step.of((1, 32768)), Step.of((1, 70))),
        case("Llama, 256 tokens of 1k", "llama", Step([1] * 256, [1024 - i for i in range(256)]), tiny_singles),
        case("Llama, pages of 64", "llama", singles, tiny_singles, block=64),
        case("Llama, a prompt of 8k", "llama", Step.of((8192, 8192)), Step.of((9, 9))),
        case("Llama, 2k at 32k", "llama", Step.of((2048, 32768)), Step.of((6, 40))),
        case("Llama, mixed", "llama", mixed, tiny_mixed),
        case("Llama, mixed, a window", "llama", mixed, tiny_mixed, sliding_window=500),
        case("Llama, single tokens, a window", "llama", singles, tiny_singles, sliding_window=1024),
        case("Qwen, single tokens to 32k", "qwen", singles, tiny_singles, block=32),
        case("Qwen, mixed", "qwen", mixed, tiny_mixed, block=32),
        case("Gemma, single tokens, capped", "gemma", singles, tiny_singles, softcap=50.0),
        case("Gemma, mixed, a window", "gemma", mixed, tiny_mixed, sliding_window=1024, block=32),
        case("Gemma, mixed, pages of 64", "gemma", mixed, tiny_mixed, block=64),
        latent_case("16 heads, single tokens to 32k", 16, singles, tiny_singles),
        latent_case("20 heads, pages of 16, single tokens to 32k", 20, singles, tiny_singles, block=16),
        latent_case("128 heads, tokens and chunks", 128, Step.of((1, 900), (33, 1000), (2, 33)), tiny_mixed),
        case("heads of 64", "small", mixed, tiny_mixed),
        case("float16", "llama", mixed, tiny_mixed, dtype=F16),
        case("float32", "small", mixed, tiny_mixed, dtype=F32),
    ]
