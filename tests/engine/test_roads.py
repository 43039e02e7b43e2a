"""The road does not change the tokens.

Whatever a request shares its steps with, however its prompt is cut into chunks, whether it was preempted, whether its
beginning came from the prefix cache: the same token ids, and the same log probabilities bit for bit.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire import LLM, SamplingParams
from quire.core.outputs import RequestOutput
from quire.engine.worker.forward import Choice
from quire.kernels.cpu import library

FAMILIES = ("llama", "llama_rope3", "mistral", "qwen2", "qwen3", "gemma3")
ATTENTIONS = ("llama", "gemma3")
"""Of families, these differ in what attention is asked for."""
TORCH_FAMILIES = (*ATTENTIONS, "qwen3_moe")
"""The native kernels leave the last to torch."""
SLOW_FAMILIES = tuple(family for family in FAMILIES if family not in ATTENTIONS)
"""Torch takes half a minute for each; they are llama's road with other weights."""
NATIVE_BODIES = (
    "v4n float32 auto",
    "v4n bfloat16 auto",
    "v4 float32 auto",
    "v3 float32 auto",
    "v3 bfloat16 auto",
    "v2 float32 auto",
)
"""The kernels of one instruction-set level; in what they compute; how keys and values are held."""
INT8_BODIES = ("torch float32 int8", "v4n bfloat16 int8", "v4 float32 int8", "v3 bfloat16 int8", "v2 float32 int8")

Answer = list[tuple[list[int], list[dict[int, float]]]]

# Prompts of many lengths, some sharing beginnings: around block borders, chunk borders and padding borders.
LENGTHS = (1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 40, 63, 64, 65, 70, 90)
PROMPTS = [[(7 * i + 3 * j * j + length) % 250 + 2 for j in range(length)] for i, length in enumerate(LENGTHS * 2)]


def params(i: int) -> SamplingParams:
    """Greedy for even prompts; seeded with every kind of truncation and penalty for odd ones."""
    if i % 2 == 0:
        return SamplingParams(temperature=0, max_tokens=12, logprobs=3, ignore_eos=True)
    return SamplingParams(
        temperature=0.9,
        top_p=0.9 if i % 3 else 1.0,
        top_k=40 if i % 5 else 0,
        min_p=0.01 if i % 7 == 0 else 0.0,
        repetition_penalty=1.1 if i % 4 == 1 else 1.0,
        presence_penalty=0.3 if i % 4 == 3 else 0.0,
        seed=1000 + i,
        max_tokens=12,
        logprobs=3,
        ignore_eos=True,
    )


PARAMS = [params(i) for i in range(len(PROMPTS))]


def answers(outputs: list[RequestOutput]) -> list[Answer]:
    """What must not change, exactly."""
    return [
        [
            (list(c.token_ids), [{t: lp.logprob for t, lp in position.items()} for position in c.logprobs or []])
            for c in output.outputs
        ]
        for output in outputs
    ]


class Road:
    """A tiny model on one kind of body, and what it answers when each request runs alone."""

    def __init__(self, path: Path, body: str) -> None:
        self.level, dtype, kv_dtype = body.split()
        self._path = path
        self._settings: dict[str, Any] = {
            "cpu_kernels": "torch" if self.level == "torch" else "native",
            "dtype": dtype,
            "kv_cache_dtype": kv_dtype,
            "max_num_batched_tokens": 512,
            "max_num_seqs": 32,
            "max_model_len": 128,
            "block_size": 16,
            "num_gpu_blocks_override": 400,
        }
        llm = self.engine(enable_prefix_caching=False)
        self.expected = [
            answers(llm.generate([prompt], one, use_tqdm=False))[0] for prompt, one in zip(PROMPTS, PARAMS, strict=True)
        ]

    def engine(self, **settings: Any) -> LLM:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("QUIRE_CPU_LEVEL", "" if self.level == "torch" else self.level)
            return LLM(str(self._path), **(self._settings | settings))


ROADS = [
    *(("torch float32 auto", family) for family in TORCH_FAMILIES),
    *(pytest.param(("torch float32 auto", family), marks=pytest.mark.slow) for family in SLOW_FAMILIES),
    *((body, family) for body in NATIVE_BODIES for family in FAMILIES),
    *((body, family) for body in INT8_BODIES for family in ATTENTIONS),
]


@pytest.fixture(scope="module", params=ROADS, ids=lambda road: " ".join(road))
def road(request: pytest.FixtureRequest, tiny_checkpoint: Callable[[str], Path]) -> Road:
    body, family = request.param
    level = body.split()[0]
    if level != "torch" and level not in [one.level for one in library.available()]:
        pytest.skip(f"the kernels {level} do not run here")
    return Road(tiny_checkpoint(family), body)


def test_the_reference_varies(road: Road) -> None:
    """Else the tests below would prove little."""
    assert len({tuple(answer[0][0]) for answer in road.expected}) > len(PROMPTS) // 2


@pytest.mark.parametrize("size", [2, 3, 7, 32])
def test_batched(road: Road, size: int) -> None:
    llm = road.engine(max_num_seqs=size, enable_prefix_caching=False)
    assert answers(llm.generate(PROMPTS, PARAMS, use_tqdm=False)) == road.expected


@pytest.mark.parametrize("chunk", [1, 7, 64, 4096])
def test_chunked(road: Road, chunk: int) -> None:
    llm = road.engine(max_num_batched_tokens=chunk)
    assert answers(llm.generate(PROMPTS, PARAMS, use_tqdm=False)) == road.expected


@pytest.mark.parametrize("num_threads", [1, 3])
def test_other_threads(road: Road, num_threads: int) -> None:
    if road.level == "torch":
        pytest.skip("torch's threads are the process's own")
    llm = road.engine(num_threads=num_threads)
    assert answers(llm.generate(PROMPTS, PARAMS, use_tqdm=False)) == road.expected


def test_preempted(road: Road) -> None:
    llm = road.engine(num_gpu_blocks_override=12, max_num_seqs=16, max_num_batched_tokens=64)
    assert answers(llm.generate(PROMPTS, PARAMS, use_tqdm=False)) == road.expected
    assert llm.stats.num_preemptions > 0
    assert llm.check().error == ""


@pytest.mark.parametrize("settings", [{}, {"max_num_seqs": 3}], ids=str)
def test_the_short_way_of_the_likeliest(road: Road, short_ways: Counter[Choice], settings: dict[str, Any]) -> None:
    """Of steps in which all take the likeliest token and ask for nothing else, before and after such as do not."""
    asked = [
        one.replace(logprobs=None, max_tokens=12 if one.temperature == 0 else 1 + i % 6) for i, one in enumerate(PARAMS)
    ]
    llm = road.engine(**settings)
    found = [list(output.outputs[0].token_ids) for output in llm.generate(PROMPTS, asked, use_tqdm=False)]
    assert found == [answer[0][0][: one.max_tokens] for answer, one in zip(road.expected, asked, strict=True)]
    assert short_ways[Choice.LIKELIEST] > 5 or road.level == "torch"
    assert llm.check().error == ""


@pytest.mark.parametrize("settings", [{}, {"max_num_seqs": 3}], ids=str)
def test_the_short_way_of_draws(road: Road, short_ways: Counter[Choice], settings: dict[str, Any]) -> None:
    """Of steps in which each draws in its own way, or takes the likeliest token."""
    plain = dict(repetition_penalty=1.0, presence_penalty=0.0)
    asked = [one.replace(**plain, max_tokens=12 - i % 6) for i, one in enumerate(PARAMS)]
    expected = road.engine(**settings).generate(PROMPTS, asked, use_tqdm=False)
    assert not +short_ways, "who asks for log probabilities goes the long way"
    outputs = road.engine(**settings).generate(PROMPTS, [one.replace(logprobs=None) for one in asked], use_tqdm=False)
    assert [output.outputs[0].token_ids for output in outputs] == [output.outputs[0].token_ids for output in expected]
    assert short_ways[Choice.DRAWN] > 5 or road.level == "torch"


def test_up_to_the_full_length(road: Road) -> None:
    """The last token of a sequence of max_model_len has no place of its own; its neighbour's are not touched."""
    asked = SamplingParams(temperature=0, max_tokens=28, logprobs=1, ignore_eos=True)
    prompts = [[i] * 100 for i in range(5, 9)]
    expected = [answers(road.engine().generate([prompt], asked, use_tqdm=False))[0][0][0] for prompt in prompts]
    outputs = road.engine().generate(prompts, asked.replace(logprobs=None), use_tqdm=False)
    assert [list(output.outputs[0].token_ids) for output in outputs] == expected
    assert all(output.outputs[0].finish_reason == "length" for output in outputs)


def test_prefix_hit_inside_a_block(road: Road) -> None:
    llm = road.engine()
    llm.generate(PROMPTS, PARAMS, use_tqdm=False)
    again = llm.generate(PROMPTS, PARAMS, use_tqdm=False)
    assert answers(again) == road.expected
    hits = [output.num_cached_tokens or 0 for output in again]
    assert all(hit == len(prompt) - 1 for hit, prompt in zip(hits, PROMPTS, strict=True))
    assert any(hit % 16 for hit in hits)


@pytest.mark.parametrize("block_size", [16, 32])
def test_other_blocks_of_the_same_size(road: Road, block_size: int) -> None:
    """Where a sequence's blocks lie in memory is nobody's business."""
    llm = road.engine(block_size=block_size)
    first = answers(llm.generate(PROMPTS, PARAMS, use_tqdm=False))
    llm.generate(list(reversed(PROMPTS)), SamplingParams(max_tokens=3, seed=1), use_tqdm=False)
    assert answers(llm.generate(PROMPTS, PARAMS, use_tqdm=False)) == first


def test_several_continuations(road: Road) -> None:
    many = SamplingParams(n=4, temperature=1.0, seed=5, max_tokens=8, logprobs=0, ignore_eos=True)
    apart = [many.replace(n=1, seed=5 + i) for i in range(4)]
    llm = road.engine()
    together = answers(llm.generate(PROMPTS[:8], many, use_tqdm=False))
    single = answers(llm.generate([p for p in PROMPTS[:8] for _ in range(4)], apart * 8, use_tqdm=False))
    assert [continuation for answer in together for continuation in answer] == [answer[0] for answer in single]


def test_beside_one_whose_prompt_is_scored(road: Road) -> None:
    """The last layer then computes all tokens, not only those that are sampled from."""
    beside = [params.replace(prompt_logprobs=1) if i % 3 == 0 else params for i, params in enumerate(PARAMS)]
    assert answers(road.engine().generate(PROMPTS, beside, use_tqdm=False)) == road.expected


def test_prompt_logprobs(road: Road) -> None:
    """Scores of the prompt do not depend on chunks either."""
    scored = SamplingParams(temperature=0, max_tokens=2, prompt_logprobs=2)
    whole = road.engine().generate(PROMPTS, scored, use_tqdm=False)
    cut = road.engine(max_num_batched_tokens=7).generate(PROMPTS, scored, use_tqdm=False)
    for a, b, prompt in zip(whole, cut, PROMPTS, strict=True):
        assert a.prompt_logprobs is not None
        assert len(a.prompt_logprobs) == len(prompt)
        assert a.prompt_logprobs[0] is None
        assert all(token in position for token, position in zip(prompt[1:], a.prompt_logprobs[1:], strict=True))
        assert a.prompt_logprobs == b.prompt_logprobs
