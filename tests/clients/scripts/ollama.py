"""Ollama's client: chats, generation, streams, tools, formats, log probabilities, models, what is refused."""

import asyncio
import json
import sys
from typing import Literal

import ollama
from pydantic import BaseModel, Field

client = ollama.Client(host=sys.argv[1])
later = ollama.AsyncClient(host=sys.argv[1])
(LISTED,) = client.list().models
MODEL = LISTED.model

HI = [{"role": "user", "content": "What is the capital of France?"}]
ASK = {"model": MODEL, "options": {"temperature": 0, "num_predict": 20}}


class City(BaseModel):
    city: str = Field(max_length=20)
    country: Literal["France", "Italy"]


def models() -> None:
    assert LISTED.size > 0 and LISTED.digest and LISTED.details.family, LISTED
    (running,) = client.ps().models
    assert running.model == MODEL and running.size > 0, running
    shown = client.show(MODEL)
    assert "completion" in shown.capabilities and "tools" in shown.capabilities, shown.capabilities
    assert shown.template and shown.modelinfo["general.architecture"] and shown.details.parameter_size, shown
    assert client.pull(MODEL).status == "success"
    assert [step.status for step in client.pull(MODEL, stream=True)][-1] == "success"


def chats() -> None:
    answer = client.chat(**ASK, messages=HI)
    assert "Paris" in answer.message.content and answer.done and answer.done_reason == "stop", answer
    assert answer.prompt_eval_count > 0 and answer.eval_count > 1, answer
    assert answer.total_duration >= answer.eval_duration > 0 and answer.created_at, answer

    parts = list(client.chat(**ASK, messages=HI, stream=True))
    assert "".join(part.message.content for part in parts) == answer.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == answer.eval_count and all(part.model == MODEL for part in parts)

    cut = client.chat(model=MODEL, messages=HI, options={"num_predict": 2, "seed": 1, "stop": ["zzz"]})
    assert cut.done_reason == "length" and cut.eval_count == 2, cut
    scored = client.chat(**ASK, messages=HI, logprobs=True, top_logprobs=2)
    assert "".join(one.token for one in scored.logprobs).startswith(answer.message.content), scored
    assert all(len(one.top_logprobs) == 2 and one.logprob <= 0 for one in scored.logprobs)
    assert client.chat(model=MODEL, messages=[]).done_reason == "load"


def generations() -> None:
    answer = client.generate(**ASK, prompt=HI[0]["content"])
    assert "Paris" in answer.response and answer.context, answer
    parts = list(client.generate(**ASK, prompt=HI[0]["content"], stream=True))
    assert "".join(part.response for part in parts) == answer.response
    again = client.generate(**ASK, prompt="And of Italy?", context=answer.context)
    assert again.prompt_eval_count > len(answer.context), again
    raw = client.generate(**ASK, prompt="The capital of France is", raw=True)
    assert raw.response.lstrip().startswith("Paris") and raw.context is None, raw
    ruled = client.generate(**ASK, prompt="Hello", system="You are a pirate.")
    assert ruled.prompt_eval_count > client.generate(**ASK, prompt="Hello", system="Be.").prompt_eval_count, ruled
    assert client.generate(model=MODEL).done_reason == "load"


def tools() -> None:
    def weather(city: str) -> str:
        """The weather of a city

        Args:
            city: the city's name
        """
        return f"Sunny in {city}"

    def call(city: str) -> dict:
        return {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": city}}}]}

    def ask(city: str) -> dict:
        return {"role": "user", "content": f"What is the weather in {city}?"}

    # Nothing can require a call here: a small model calls where it has seen itself call.
    asked = {"messages": [ask("Rome"), call("Rome"), ask("Paris")], "tools": [weather]}
    answer = client.chat(**ASK | {"options": {"temperature": 0, "num_predict": 80}}, **asked)
    (made,) = answer.message.tool_calls
    assert made.function.name == "weather" and made.function.arguments == {"city": "Paris"}, answer
    assert answer.done_reason == "stop" and not answer.message.content, answer
    parts = list(client.chat(**ASK | {"options": {"temperature": 0, "num_predict": 80}}, **asked, stream=True))
    assert [one for part in parts for one in part.message.tool_calls or ()] == [made], parts
    assert parts[-1].done and not "".join(part.message.content for part in parts), parts

    result = {"role": "tool", "content": weather(**made.function.arguments), "tool_name": "weather"}
    turns = [ask("Paris"), answer.message, result]
    told = client.chat(**ASK, messages=turns, tools=[weather])
    assert "Sunny" in told.message.content, told


def shapes() -> None:
    ask = {"model": MODEL, "options": {"temperature": 0, "num_predict": 100}}
    answer = client.chat(**ask, messages=HI, format=City.model_json_schema())
    assert City.model_validate_json(answer.message.content) == City(city="Paris", country="France"), answer
    parts = client.generate(**ask, prompt=HI[0]["content"], format=City.model_json_schema(), stream=True)
    assert City.model_validate_json("".join(part.response for part in parts)).city == "Paris"
    anything = client.generate(**ask, prompt="A cat as JSON, very short.", format="json")
    assert anything.done_reason == "length" or json.loads(anything.response) is not None


def errors() -> None:
    def refused(status: int, told: str, call: object, *args: object, **fields: object) -> None:
        try:
            answer = call(*args, **fields)
            list(answer) if fields.get("stream") else None
        except ollama.ResponseError as error:
            assert error.status_code == status and told in error.error, (status, told, error.status_code, error.error)
        else:
            raise AssertionError(("not refused", fields))

    refused(404, "other", client.chat, model="other", messages=HI)
    refused(404, "other", client.show, "other")
    refused(400, "mirostat", client.chat, model=MODEL, messages=HI, options={"mirostat": 2})
    refused(400, "temperature", client.chat, model=MODEL, messages=HI, options={"temperature": -1})
    refused(400, "think", client.chat, model=MODEL, messages=HI, think=True)
    refused(400, "", client.generate, model=MODEL, prompt="word " * 20000)
    refused(400, "", client.generate, model=MODEL, prompt="word " * 20000, stream=True)
    refused(400, "suffix", client.generate, model=MODEL, prompt="a", suffix="b")
    refused(400, "image", client.chat, model=MODEL, messages=[{**HI[0], "images": [b"\x89PNG"]}])
    refused(400, "embed", client.embed, model=MODEL, input="x")
    refused(400, "embed", client.embeddings, model=MODEL, prompt="x")
    for call, fields in (
        (client.pull, {}),
        (client.delete, {}),
        (client.push, {}),
        (client.copy, {"destination": "b"}),
    ):
        try:
            call("other", **fields)
        except ollama.ResponseError as error:
            assert 400 <= error.status_code < 600 and error.error, error
        else:
            raise AssertionError(call)


async def asynchronously() -> None:
    answers = await asyncio.gather(*(later.chat(**ASK, messages=HI) for _ in range(8)))
    assert len({answer.message.content for answer in answers}) == 1
    parts = [part async for part in await later.chat(**ASK, messages=HI, stream=True)]
    assert "".join(part.message.content for part in parts) == answers[0].message.content


for check in (models, chats, generations, tools, shapes, errors):
    check()
asyncio.run(asynchronously())
print("ok")
