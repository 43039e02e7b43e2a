"""Whole engines on the device: tiny random checkpoints of every family answer as they do on a CPU, in float32.

However steps are computed: replayed or operator by operator, one ahead of the host or not, in chunks, preempted. And a
replayed step gives the log probabilities of one that is not.
"""

import importlib.util
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any
from unittest.mock import patch

from benchmarks.gpu.devices import beside
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.report import ROOT

from quire import LLM, SamplingParams
from quire.core.outputs import RequestOutput
from quire.engine.executor.inline import InlineExecutor

LENGTHS = (1, 2, 5, 15, 16, 17, 31, 33, 40, 63, 64, 65, 90)
SIZES: dict[str, Any] = dict(max_num_batched_tokens=256, max_num_seqs=12, max_model_len=128, block_size=16)
ROADS: dict[str, dict[str, Any]] = {
    "replayed": {},
    "operator by operator": {"enforce_eager": True},
    "not ahead": {},
    "chunks of 13": {"max_num_batched_tokens": 13},
    "preempted": {"num_gpu_blocks_override": 8, "max_num_batched_tokens": 64},
    "no prefix cache": {"enable_prefix_caching": False},
}
MOST_OFF = 1e-4
"""Between log probabilities in float32 of a step that is replayed, its batch filled up, and one that is not."""


@cache
def checkpoints() -> ModuleType:
    """The tests' maker of tiny checkpoints."""
    spec = importlib.util.spec_from_file_location("checkpoints", ROOT / "tests" / "conftest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def families() -> list[str]:
    return list(checkpoints().TINY)


def prompts() -> list[list[int]]:
    return [[(7 * i + 3 * j * j + length) % 250 + 2 for j in range(length)] for i, length in enumerate(LENGTHS * 2)]


def wishes(count: int) -> list[SamplingParams]:
    """Greedy, and drawn from seeds, with all that cuts a distribution; few that need the host for every token."""
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0.9},
        {"temperature": 0, "max_tokens": 4},
        {"temperature": 0.8, "top_p": 0.9, "top_k": 20},
        {"temperature": 0, "repetition_penalty": 1.2, "logprobs": 2, "max_tokens": 3},
        {"temperature": 0, "bad_words": ["a"], "max_tokens": 3},
        {"temperature": 0, "prompt_logprobs": 1, "max_tokens": 6},
        {"temperature": 1.2, "min_p": 0.05},
        {"temperature": 0, "max_tokens": 1},
        {"temperature": 0, "max_tokens": 24},
    ]
    return [
        SamplingParams(**{"max_tokens": 12, "ignore_eos": True, "seed": i} | kinds[i % len(kinds)])
        for i in range(count)
    ]


def check_family(name: str, device: str, journal: Journal) -> None:
    """Raises AssertionError at the end if any road gave other tokens."""
    module = checkpoints()
    asked, params = prompts(), wishes(len(LENGTHS) * 2)
    with TemporaryDirectory() as folder:
        path = Path(folder)
        module.make_checkpoint(path, *module.TINY[name])
        module.make_tokenizer(path)
        expected = tokens(_llm(path, "cpu", "float32").generate(asked, params, use_tqdm=False))
        assert len({tuple(one) for one in expected}) > len(asked) // 2, "the model says the same to everyone"
        wrong = []
        for road in ROADS:
            found = _go(path, device, road, asked, params, expected)
            journal.row("engines", model=name, road=road, **found)
            wrong += [] if found["ok"] else [road]
        wrong += _check_replays(path, name, device, journal)
    assert not wrong, f"other tokens: {', '.join(wrong)}"


def check_model(path: Path, device: str, journal: Journal) -> None:
    """A real model: in float32 the tokens of a CPU; in bfloat16, which rounds, how far they agree."""
    texts = ["The capital of France is", "def fibonacci(n):", "Once upon a time", "1, 2, 3, 5, 8, 13,"] * 3
    params = [SamplingParams(temperature=0.7 * (i % 2), seed=i, max_tokens=32, ignore_eos=True) for i in range(12)]
    sizes = SIZES | {"max_num_batched_tokens": 64, "num_gpu_blocks_override": 200}
    expected = {
        dtype: tokens(_llm(path, "cpu", dtype, **sizes).generate(texts, params, use_tqdm=False))
        for dtype in ("float32", "bfloat16")
    }
    is_right = True
    for dtype, road in (("float32", "replayed"), ("float32", "operator by operator"), ("bfloat16", "replayed")):
        found = _go(path, device, road, texts, params, expected[dtype], dtype)
        is_right = is_right and (found["ok"] or dtype != "float32")
        journal.row("engines", model=f"{path.name} {dtype}", road=road, **found)
    assert is_right, "other tokens in float32"


def _go(
    path: Path,
    device: str,
    road: str,
    asked: Sequence[Any],
    params: list[SamplingParams],
    expected: list[list[int]],
    dtype: str = "float32",
) -> dict[str, Any]:
    """One road, twice: the second time with a warm prefix cache."""
    steps: Counter[str] = Counter()
    try:
        with beside(road != "not ahead"), _counted(steps):
            llm = _llm(path, device, dtype, **ROADS[road])
            given = tokens(llm.generate(list(asked), params, use_tqdm=False))
            again = tokens(llm.generate(list(asked), params, use_tqdm=False))
            problem = llm.check().error
    except Exception as error:
        return {"ok": False, "note": f"{type(error).__name__}: {str(error)[:300]}"}
    is_right = given == expected and again == expected and not problem
    wrong = [i for i, want in enumerate(expected) if given[i] != want or again[i] != want]
    note = problem
    if wrong:
        first = wrong[0]
        after = _agreed(given[first], expected[first])
        note = f"{len(wrong)} of {len(expected)} differ, number {first} first, after {after} tokens"
    if road != "not ahead" and not steps["ahead"]:
        is_right, note = False, "no step was launched ahead of the host"
    return {"ok": is_right, "ahead": steps["ahead"], "done at once": steps["done"], "note": note}


def _agreed(given: list[int], expected: list[int]) -> int:
    return next((i for i, (one, other) in enumerate(zip(given, expected, strict=False)) if one != other), len(given))


def _check_replays(path: Path, name: str, device: str, journal: Journal) -> list[str]:
    """Log probabilities of replayed steps beside those of others, for batches that have a record and others."""
    wrong = []
    for dtype in ("float32", "bfloat16"):
        wish = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, logprobs=4)
        with beside(True):
            engines = [_llm(path, device, dtype, enforce_eager=is_eager) for is_eager in (False, True)]
        for size in (1, 2, 4, 8, 3, 11):
            one, other = (engine.generate(prompts()[:size], wish, use_tqdm=False) for engine in engines)
            is_same = tokens(one) == tokens(other)
            off = _most_off(one, other) if is_same else None
            # In 16 bits, the vendor's products of other batch sizes may round otherwise.
            is_right = is_same and off is not None and off <= MOST_OFF if dtype == "float32" else None
            journal.row(
                "replayed beside not", model=name, dtype=dtype, batch=size, ok=is_right, tokens=is_same, off=off
            )
            wrong += [f"replayed, {size}"] if is_right is False else []
    return wrong


def _most_off(one: list[RequestOutput], other: list[RequestOutput]) -> float:
    pairs = (
        (place[token].logprob, beside[token].logprob)
        for a, b in zip(one, other, strict=True)
        for place, beside in zip(a.outputs[0].logprobs or [], b.outputs[0].logprobs or [], strict=True)
        for token in place.keys() & beside.keys()
    )
    return max(abs(a - b) for a, b in pairs)


def tokens(outputs: list[RequestOutput]) -> list[list[int]]:
    return [list(output.outputs[0].token_ids) for output in outputs]


def _llm(path: Path, device: str, dtype: str, **settings: Any) -> LLM:
    blocks = {"num_gpu_blocks_override": 200}
    return LLM(str(path), **(SIZES | blocks | settings), device=device, dtype=dtype, cpu_kernels="torch")


@contextmanager
def _counted(steps: Counter[str]) -> Iterator[None]:
    """Count steps that were launched ahead of the host, and that were over when they were launched."""
    launch = InlineExecutor.launch

    def counted(self: InlineExecutor, decision: Any) -> Any:
        ticket = launch(self, decision)
        steps["done" if ticket.is_done else "ahead"] += 1
        return ticket

    with patch.object(InlineExecutor, "launch", counted):
        yield
