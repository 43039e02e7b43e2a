"""SmolLM2-135M-Instruct, the default model: sensible, and the same on every road."""

from pathlib import Path

import pytest

from quire import LLM, SamplingParams
from quire.core.outputs import RequestOutput

CHATS = [
    "What is the capital of France?",
    "Name three colours.",
    "Write one sentence about the sea.",
    "Wie heißt die Hauptstadt von Italien?",
    "2 + 2 =",
    "Explain what a prime number is, and give the first five of them, in two short sentences.",
]
PARAMS = [
    SamplingParams(temperature=0, max_tokens=40, logprobs=2, ignore_eos=True)
    if i % 2 == 0
    else SamplingParams(temperature=0.7, top_p=0.95, seed=i, max_tokens=40, logprobs=2, ignore_eos=True)
    for i in range(len(CHATS))
]
MESSAGES = [[{"role": "user", "content": text}] for text in CHATS]
Exact = list[tuple[str, list[int], list[dict[int, float]]]]


def exact(outputs: list[RequestOutput]) -> Exact:
    return [
        (c.text, list(c.token_ids), [{t: lp.logprob for t, lp in position.items()} for position in c.logprobs or []])
        for output in outputs
        for c in output.outputs
    ]


@pytest.fixture(scope="module")
def llm(smollm2: Path) -> LLM:
    return LLM(str(smollm2), max_model_len=1024, enable_prefix_caching=False)


def test_offline_no_decode_is_hurried(llm: LLM) -> None:
    assert llm.info.max_num_interleaved_tokens == llm.info.max_num_batched_tokens


@pytest.fixture(scope="module")
def alone(llm: LLM) -> Exact:
    return [
        exact(llm.chat(messages, params, use_tqdm=False))[0] for messages, params in zip(MESSAGES, PARAMS, strict=True)
    ]


def test_knows_the_capital_of_france(alone: Exact) -> None:
    assert "Paris" in alone[0][0]


def test_speaks_english(llm: LLM) -> None:
    output = llm.generate("Once upon a time, there was a", SamplingParams(temperature=0, max_tokens=24), use_tqdm=False)
    words = output[0].outputs[0].text.split()
    assert len(words) > 12
    assert {"the", "a", "in", "who", "and", "named", "of"} & set(words)


def test_batched(llm: LLM, alone: Exact) -> None:
    assert exact(llm.chat(MESSAGES, PARAMS, use_tqdm=False)) == alone


@pytest.mark.parametrize("chunk", [7, 64])
def test_chunked_and_cached(smollm2: Path, alone: Exact, chunk: int) -> None:
    llm = LLM(str(smollm2), max_model_len=1024, max_num_batched_tokens=chunk, max_num_seqs=7)
    assert exact(llm.chat(MESSAGES, PARAMS, use_tqdm=False)) == alone
    again = llm.chat(MESSAGES, PARAMS, use_tqdm=False)
    assert exact(again) == alone
    assert any((output.num_cached_tokens or 0) % llm.info.block_size for output in again)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 4096])
def test_chunked_to_the_extremes(smollm2: Path, alone: Exact, chunk: int) -> None:
    llm = LLM(str(smollm2), max_model_len=1024, max_num_batched_tokens=chunk, max_num_seqs=1 if chunk == 1 else 32)
    assert exact(llm.chat(MESSAGES, PARAMS, use_tqdm=False)) == alone


def test_preempted(smollm2: Path, alone: Exact) -> None:
    llm = LLM(str(smollm2), max_model_len=128, num_gpu_blocks_override=9, block_size=16)
    assert exact(llm.chat(MESSAGES, PARAMS, use_tqdm=False)) == alone
    assert llm.stats.num_preemptions > 0
    assert llm.check().error == ""


def test_samples_as_its_makers_do() -> None:
    """The file says nothing of sampling, and at temperature 1 so small a model rambles."""
    llm = LLM(max_model_len=256)
    assert llm.get_default_sampling_params().temperature == 0.2
    assert "Paris" in llm.chat([{"role": "user", "content": CHATS[0]}], use_tqdm=False)[0].outputs[0].text
    assert LLM(max_model_len=256, generation_config="none").get_default_sampling_params().temperature == 1.0
