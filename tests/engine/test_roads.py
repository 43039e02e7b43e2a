"""The road does not change the tokens.

Whatever a request shares its steps with, however its prompt is cut into chunks, whether it was preempted, whether its
beginning came from the prefix cache: the same token ids, and the same log probabilities bit for bit.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from quire import LLM, SamplingParams
from quire.core.outputs import RequestOutput

FAMILIES = ("llama", "llama_rope3", "mistral", "qwen2", "qwen3", "gemma3")
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


def engine(path: Path, **settings: object) -> LLM:
    defaults = {"max_num_batched_tokens": 512, "max_num_seqs": 32, "max_model_len": 128, "block_size": 16}
    return LLM(str(path), num_gpu_blocks_override=400, **(defaults | settings))


def alone(path: Path) -> list[Answer]:
    llm = engine(path, enable_prefix_caching=False)
    return [
        answers(llm.generate([prompt], one, use_tqdm=False))[0] for prompt, one in zip(PROMPTS, PARAMS, strict=True)
    ]


@pytest.fixture(scope="module", params=FAMILIES)
def road(request: pytest.FixtureRequest, tiny_checkpoint: Callable[[str], Path]) -> tuple[Path, list[Answer]]:
    """A tiny model and what it answers when each request runs alone."""
    path = tiny_checkpoint(request.param)
    return path, alone(path)


def test_the_reference_varies(road: tuple[Path, list[Answer]]) -> None:
    """Else the tests below would prove little."""
    assert len({tuple(answer[0][0]) for answer in road[1]}) > len(PROMPTS) // 2


@pytest.mark.parametrize("size", [2, 3, 7, 32])
def test_batched(road: tuple[Path, list[Answer]], size: int) -> None:
    path, expected = road
    llm = engine(path, max_num_seqs=size, enable_prefix_caching=False)
    assert answers(llm.generate(PROMPTS, PARAMS, use_tqdm=False)) == expected


@pytest.mark.parametrize("chunk", [1, 7, 64, 4096])
def test_chunked(road: tuple[Path, list[Answer]], chunk: int) -> None:
    path, expected = road
    llm = engine(path, max_num_batched_tokens=chunk)
    assert answers(llm.generate(PROMPTS, PARAMS, use_tqdm=False)) == expected


def test_preempted(road: tuple[Path, list[Answer]]) -> None:
    path, expected = road
    llm = LLM(
        str(path), num_gpu_blocks_override=12, max_model_len=128, block_size=16, max_num_seqs=16,
        max_num_batched_tokens=64,
    )  # fmt: skip
    assert answers(llm.generate(PROMPTS, PARAMS, use_tqdm=False)) == expected
    assert llm.stats.num_preemptions > 0
    assert llm.check().error == ""


def test_prefix_hit_inside_a_block(road: tuple[Path, list[Answer]]) -> None:
    path, expected = road
    llm = engine(path)
    llm.generate(PROMPTS, PARAMS, use_tqdm=False)
    again = llm.generate(PROMPTS, PARAMS, use_tqdm=False)
    assert answers(again) == expected
    hits = [output.num_cached_tokens or 0 for output in again]
    assert all(hit == len(prompt) - 1 for hit, prompt in zip(hits, PROMPTS, strict=True))
    assert any(hit % 16 for hit in hits)


@pytest.mark.parametrize("block_size", [16, 32])
def test_other_blocks_of_the_same_size(road: tuple[Path, list[Answer]], block_size: int) -> None:
    """Where a sequence's blocks lie in memory is nobody's business."""
    path, _ = road
    llm = engine(path, block_size=block_size)
    first = answers(llm.generate(PROMPTS, PARAMS, use_tqdm=False))
    llm.generate(list(reversed(PROMPTS)), SamplingParams(max_tokens=3, seed=1), use_tqdm=False)
    assert answers(llm.generate(PROMPTS, PARAMS, use_tqdm=False)) == first


def test_several_continuations(road: tuple[Path, list[Answer]]) -> None:
    path, _ = road
    many = SamplingParams(n=4, temperature=1.0, seed=5, max_tokens=8, logprobs=0, ignore_eos=True)
    apart = [many.replace(n=1, seed=5 + i) for i in range(4)]
    llm = engine(path)
    together = answers(llm.generate(PROMPTS[:8], many, use_tqdm=False))
    single = answers(llm.generate([p for p in PROMPTS[:8] for _ in range(4)], apart * 8, use_tqdm=False))
    assert [continuation for answer in together for continuation in answer] == [answer[0] for answer in single]


def test_prompt_logprobs(road: tuple[Path, list[Answer]]) -> None:
    """Scores of the prompt do not depend on chunks either."""
    path, _ = road
    scored = SamplingParams(temperature=0, max_tokens=2, prompt_logprobs=2)
    whole = engine(path).generate(PROMPTS, scored, use_tqdm=False)
    cut = engine(path, max_num_batched_tokens=7).generate(PROMPTS, scored, use_tqdm=False)
    for a, b, prompt in zip(whole, cut, PROMPTS, strict=True):
        assert a.prompt_logprobs is not None
        assert len(a.prompt_logprobs) == len(prompt)
        assert a.prompt_logprobs[0] is None
        assert all(token in position for token, position in zip(prompt[1:], a.prompt_logprobs[1:], strict=True))
        assert a.prompt_logprobs == b.prompt_logprobs
