"""A device that computes beside the host gives the tokens of one that does not: replayed, ahead, cut off, preempted.

A CPU stands for the device: tokens stay in its tensors, decode steps are repeated from fixed places and filled up, and
the host learns of a step's tokens when it has launched the next.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from quire import LLM, SamplingParams
from quire.engine.executor.inline import InlineExecutor
from quire.engine.worker import recorded_steps
from quire.engine.worker.graphed import GraphedForward
from quire.engine.worker.recorded_steps import decode_sizes, mixed_sizes
from quire.kernels import platform

LENGTHS = (1, 2, 5, 15, 16, 17, 31, 33, 40, 63, 64, 65, 90)
PROMPTS = [[(7 * i + 3 * j * j + length) % 250 + 2 for j in range(length)] for i, length in enumerate(LENGTHS * 2)]


def params(i: int) -> SamplingParams:
    """Mostly what can be chosen on a device; few that need the host for every token."""
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0.9, "seed": i},
        {"temperature": 0},
        {"temperature": 0.8, "seed": i, "top_p": 0.9, "top_k": 20},
        {"temperature": 0, "max_tokens": 4},
        {"temperature": 0, "repetition_penalty": 1.2, "presence_penalty": 0.5, "logprobs": 2},
        {"temperature": 0, "bad_words": ["a"], "max_tokens": 3, "logprobs": 1 + i % 2},
        {"temperature": 0.7, "seed": i, "max_tokens": 3, "logprob_token_ids": [5, 100 + i]},
        {"temperature": 0, "max_tokens": 1},
        {"temperature": 1.2, "seed": i, "stop_token_ids": list(range(0, 250, 9))},
    ]
    return SamplingParams(**{"max_tokens": 11, "ignore_eos": True} | kinds[i % len(kinds)])


PARAMS = [params(i) for i in range(len(PROMPTS))]


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Let this machine's CPU be such a device; counts steps launched ahead, those that were done at once, and which
    were replayed."""
    inspect, launch, replay = platform.inspect, InlineExecutor.launch, GraphedForward.replay
    steps = Counter[str]()

    def counted(self: InlineExecutor, decision: Any) -> Any:
        ticket = launch(self, decision)
        steps["done" if ticket.is_done else "ahead"] += 1
        return ticket

    monkeypatch.setattr(platform, "inspect", lambda device: replace(inspect(device), computes_beside_host=True))

    def replayed(self: GraphedForward, decision: Any) -> Any:
        found = replay(self, decision)
        steps["eager" if found is None else "decode" if decision.is_decode else "mixed"] += 1
        return found

    monkeypatch.setattr(InlineExecutor, "launch", counted)
    monkeypatch.setattr(GraphedForward, "replay", replayed)
    monkeypatch.setattr(recorded_steps, "MOST_MIXED_TOKENS", 128)
    return steps


def engine(path: Path, **settings: Any) -> LLM:
    sizes = {"max_num_batched_tokens": 256, "max_num_seqs": 12, "max_model_len": 128, "block_size": 16}
    rest = {"cpu_kernels": "torch", "dtype": "float32", "num_gpu_blocks_override": 200}
    return LLM(str(path), **(sizes | rest | settings))


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def path(request: pytest.FixtureRequest, tiny_checkpoint: Callable[[str], Path]) -> Path:
    return tiny_checkpoint(request.param)


@pytest.fixture(scope="module")
def expected(path: Path) -> list[Any]:
    return answers(engine(path))


def answers(llm: LLM, some: slice = slice(None)) -> list[Any]:
    outputs = llm.generate(PROMPTS[some], PARAMS[some], use_tqdm=False)
    return [(output.outputs[0].token_ids, output.outputs[0].logprobs) for output in outputs]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_num_batched_tokens": 13},
        {"max_num_seqs": 3},
        {"num_gpu_blocks_override": 8, "max_num_batched_tokens": 64},
        {"enable_prefix_caching": False},
        {"enforce_eager": True},
        {"enable_chunked_prefill": False},
    ],
    ids=str,
)
def test_the_same_tokens(path: Path, expected: list[Any], beside: Counter[str], settings: dict[str, Any]) -> None:
    llm = engine(path, **settings)
    assert answers(llm) == expected
    assert beside["done"] > 0 and beside["ahead"] > 5
    if "enforce_eager" not in settings:
        assert beside["mixed"] > 0
        assert beside["decode"] > 0 or settings == {"max_num_batched_tokens": 13}, "so few that prompts never end"
    assert answers(llm, slice(0, 8)) == expected[:8], "with a warm cache"
    if "num_gpu_blocks_override" in settings:
        assert llm.stats.num_preemptions > 0


@pytest.mark.usefixtures("beside")
def test_steps_that_score_a_prompt_between_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They go operator by operator, and what the step before left is not theirs."""
    greedy = [SamplingParams(temperature=0, ignore_eos=True, max_tokens=5 + i % 7) for i in range(len(PROMPTS))]
    asked = [one.replace(prompt_logprobs=1) if i % 4 == 3 else one for i, one in enumerate(greedy)]

    def answers(llm: LLM) -> list[Any]:
        outputs = llm.generate(PROMPTS, asked, use_tqdm=False)
        return [(output.outputs[0].token_ids, output.prompt_logprobs) for output in outputs]

    found = answers(engine(path, max_num_seqs=3, max_num_batched_tokens=24, enable_prefix_caching=False))
    monkeypatch.undo()
    assert found == answers(engine(path, enable_prefix_caching=False))


@pytest.mark.usefixtures("beside")
def test_up_to_the_full_length(path: Path) -> None:
    """The last token of a sequence of max_model_len has no place of its own."""
    prompt, one = [5] * 100, SamplingParams(temperature=0, ignore_eos=True, max_tokens=28)
    (output,) = engine(path).generate([prompt], one, use_tqdm=False)
    assert len(output.outputs[0].token_ids) == 28 and output.outputs[0].finish_reason == "length"


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("level", [1, 2])
def test_the_same_tokens_after_sleep(path: Path, expected: list[Any], level: int) -> None:
    llm = engine(path)
    llm.sleep(level)
    llm.wake_up()
    assert answers(llm, slice(0, 4)) == expected[:4]


def test_sizes_of_recorded_steps() -> None:
    assert decode_sizes(1) == [1]
    assert decode_sizes(6) == [1, 2, 4, 6]
    assert mixed_sizes(15) == [15] and mixed_sizes(80) == [16, 32, 64, 80]
    assert mixed_sizes(1024) == mixed_sizes(8192) and mixed_sizes(8192)[-1] == 1024
    for most in (16, 100, 256, 257, 1000):
        sizes = decode_sizes(most)
        assert sizes == sorted(set(sizes)) and sizes[-1] == most
        assert all(larger <= 2 * smaller for smaller, larger in pairwise(sizes))
