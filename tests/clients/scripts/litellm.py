"""LiteLLM by its routes for OpenAI-like servers, vLLM, Anthropic and Ollama: chats, streams, tools, formats, errors."""

import asyncio
import gc
import json
import os
import sys
from typing import Literal

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # Nothing is fetched.

import litellm
from pydantic import BaseModel, Field

# LiteLLM leaves streams where they say [DONE]. The collector may close one just when another request holds the lock of
# the same connections, and that request then waits for ever.
gc.disable()

URL = sys.argv[1]
HI = [{"role": "user", "content": "What is the capital of France?"}]
ROUTES = {
    "openai/": {"api_base": f"{URL}/v1", "api_key": "none"},
    "hosted_vllm/": {"api_base": f"{URL}/v1"},
    "anthropic/": {"api_base": URL, "api_key": "none"},
    "ollama_chat/": {"api_base": URL},
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class City(BaseModel):
    city: str = Field(max_length=20)
    country: Literal["France", "Italy"]


def chats(route: str) -> None:
    ask = {"model": f"{route}quire", "temperature": 0, "max_tokens": 60, "num_retries": 0, **ROUTES[route]}
    answer = litellm.completion(**ask, messages=HI)
    text = answer.choices[0].message.content
    assert "Paris" in text and answer.usage.completion_tokens > 1 and answer.choices[0].finish_reason == "stop", answer
    chunks = list(litellm.completion(**ask, messages=HI, stream=True, stream_options={"include_usage": True}))
    assert litellm.stream_chunk_builder(chunks).choices[0].message.content == text, chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens, chunks[-1]

    async def asynchronously() -> None:
        later = await asyncio.gather(*(litellm.acompletion(**ask, messages=HI) for _ in range(3)))
        assert {one.choices[0].message.content for one in later} == {text}
        stream = await litellm.acompletion(**ask, messages=HI, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == text

    loop.run(asynchronously())
    made = litellm.completion(**ask, messages=HI, response_format=City).choices[0].message.content
    assert City.model_validate_json(made) == City(city="Paris", country="France"), made


def tools(route: str) -> None:
    ask = {"model": f"{route}quire", "temperature": 0, "max_tokens": 80, "num_retries": 0, **ROUTES[route]}
    asked = [{"role": "user", "content": "What is the weather in Paris?"}]
    answer = litellm.completion(**ask, messages=asked, tools=[WEATHER], tool_choice="required")
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls", answer
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls]
    assert calls[0] == ("weather", {"city": "Paris"}), calls
    chunks = list(litellm.completion(**ask, messages=asked, tools=[WEATHER], tool_choice="required", stream=True))
    streamed = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls
    assert [(call.function.name, json.loads(call.function.arguments)) for call in streamed] == calls, streamed
    results = [{"role": "tool", "tool_call_id": call.id, "content": "Sunny"} for call in message.tool_calls]
    told = litellm.completion(**ask, messages=[*asked, message.model_dump(), *results], tools=[WEATHER])
    assert told.choices[0].message.content or told.choices[0].message.tool_calls, told


def errors(route: str) -> None:
    ask = {"model": f"{route}quire", "max_tokens": 5, "num_retries": 0, **ROUTES[route]}
    long = [{"role": "user", "content": "word " * 20000}]
    # Of Ollama's servers LiteLLM does not expect to be told that a prompt is too long.
    too_long = litellm.BadRequestError if route == "ollama_chat/" else litellm.ContextWindowExceededError
    for kind, told, change in (
        (litellm.BadRequestError, "temperature", {"messages": HI, "temperature": -1}),
        (too_long, "8192", {"messages": long}),
    ):
        try:
            litellm.completion(**ask | change)
        except kind as error:
            assert told in str(error), error
        else:
            raise AssertionError((route, change))
    try:
        litellm.completion(**ask | {"model": f"{route}other"}, messages=HI)
    except litellm.NotFoundError as error:
        assert "other" in str(error), error
    else:
        raise AssertionError(route)


def of_openai() -> None:
    ask = {"temperature": 0, "max_tokens": 4, **ROUTES["openai/"]}
    plain = litellm.text_completion(model="text-completion-openai/quire", prompt="The capital of France is", **ask)
    assert "Paris" in plain.choices[0].text, plain
    scored = litellm.completion(model="openai/quire", messages=HI, logprobs=True, top_logprobs=2, **ask)
    assert len(scored.choices[0].logprobs.content) == 4, scored
    ask = {"temperature": 0, "max_output_tokens": 20, **ROUTES["openai/"]}
    response = litellm.responses(model="openai/quire", input=HI[0]["content"], **ask)
    assert "Paris" in response.output[0].content[0].text, response


def of_ollama() -> None:
    plain = litellm.completion(model="ollama/quire", messages=HI, temperature=0, max_tokens=20, api_base=URL)
    assert "Paris" in plain.choices[0].message.content, plain


with asyncio.Runner() as loop:
    for route in ROUTES:
        chats(route)
        if route != "ollama_chat/":  # Ollama's API cannot require a call.
            tools(route)
        errors(route)
of_openai()
of_ollama()
print("ok")
