"""Anthropic's client: models, messages, events, tools, their results, structured output, thinking, counts, errors."""

import asyncio
import sys
from typing import Literal

import anthropic
from pydantic import BaseModel, Field

client = anthropic.Anthropic(base_url=sys.argv[1], api_key="none", max_retries=0)
later = anthropic.AsyncAnthropic(base_url=sys.argv[1], api_key="none", max_retries=0)
MODEL = client.models.list().data[0].id
assert client.models.retrieve(MODEL).type == "model"

HI = [{"role": "user", "content": "What is the capital of France?"}]
# The temperature is no argument any more, but may be in the body.
ASK = {"model": MODEL, "messages": HI, "max_tokens": 20, "extra_body": {"temperature": 0}}
WEATHER = {
    "name": "weather",
    "description": "The weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}
QUESTION = [{"role": "user", "content": "What is the weather in Paris on the next 3 days?"}]


class City(BaseModel):
    city: str = Field(max_length=20)
    country: Literal["France", "Italy"]


def valid(answer: BaseModel) -> BaseModel:
    """The client itself takes anything: hold it against the client's types."""
    return type(answer).model_validate(answer.to_dict())


def messages() -> None:
    answer = client.messages.create(**ASK)
    valid(answer)
    (block,) = answer.content
    assert block.type == "text" and "Paris" in block.text, answer
    assert answer.role == "assistant" and answer.stop_reason == "end_turn" and answer.stop_sequence is None, answer
    assert answer.usage.output_tokens > 1 and answer._request_id, answer

    counted = client.messages.count_tokens(model=MODEL, messages=HI).input_tokens
    cached = answer.usage.cache_read_input_tokens or 0
    assert counted == answer.usage.input_tokens + cached + (answer.usage.cache_creation_input_tokens or 0), answer.usage

    system = [{"type": "text", "text": "You are a pirate.", "cache_control": {"type": "ephemeral"}}]
    marked = client.messages.create(**ASK, system=system)
    plain = client.messages.create(**ASK, system="You are a pirate.")
    assert marked.content == plain.content, "a mark for the cache changes no prompt"

    cut = client.messages.create(**ASK | {"max_tokens": 2})
    assert cut.stop_reason == "max_tokens" and cut.usage.output_tokens == 2, cut
    stopped = client.messages.create(**ASK, stop_sequences=["Paris"])
    assert stopped.stop_reason == "stop_sequence" and stopped.stop_sequence == "Paris", stopped
    assert "Paris" not in stopped.content[0].text
    begun = [*HI, {"role": "assistant", "content": "The capital of France is"}]
    went_on = client.messages.create(**ASK | {"messages": begun})
    assert went_on.content[0].text.lstrip().startswith("Paris"), went_on


def streams() -> None:
    whole = client.messages.create(**ASK)
    with client.messages.stream(**ASK) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == whole.content[0].text and final.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens, (final.usage, whole.usage)
    kinds = [valid(event).type for event in client.messages.create(**ASK, stream=True)]
    middle = [kind for kind in kinds if kind != "ping"]
    assert middle[:2] == ["message_start", "content_block_start"], kinds
    assert middle[-3:] == ["content_block_stop", "message_delta", "message_stop"], kinds
    assert set(middle[2:-3]) == {"content_block_delta"}, kinds


def tools() -> None:
    ask = ASK | {"messages": QUESTION, "max_tokens": 100, "tools": [WEATHER]}
    answer = client.messages.create(**ask, tool_choice={"type": "any", "disable_parallel_tool_use": True})
    (use,) = valid(answer).content
    assert use.type == "tool_use" and use.name == "weather" and answer.stop_reason == "tool_use", answer
    assert use.input["city"] in ("Paris", "Rome") and 1 <= use.input["days"] <= 9, use

    forced = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
    with client.messages.stream(**ask, tool_choice=forced) as stream:
        deltas = [event.partial_json for event in stream if event.type == "input_json"]
        (streamed,) = stream.get_final_message().content
    assert "".join(deltas) and streamed.name == "weather" and set(streamed.input) == {"city", "days"}, streamed

    result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "Sunny, 20 degrees"}]}
    turns = [*QUESTION, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    told = client.messages.create(**ask | {"messages": turns}, tool_choice={"type": "none"})
    assert told.content[0].type == "text" and told.content[0].text, told
    failed = [*turns[:2], {"role": "user", "content": [{**result, "is_error": True}]}]
    assert client.messages.create(**ask | {"messages": failed}).content
    count = client.messages.count_tokens
    assert (
        count(model=MODEL, messages=QUESTION, tools=[WEATHER]).input_tokens
        > count(model=MODEL, messages=QUESTION).input_tokens
    )

    asked = []

    @anthropic.beta_tool
    def weather(city: Literal["Paris", "Rome"]) -> str:
        """The weather of a city"""
        asked.append(city)
        return "Sunny, 20 degrees"

    choice = {"type": "any", "disable_parallel_tool_use": True}
    runner = client.beta.messages.tool_runner(**ask | {"tools": [weather]}, tool_choice=choice, max_iterations=2)
    assert [message.stop_reason for message in runner] == ["tool_use", "tool_use"] and len(asked) == 2, asked


def shapes() -> None:
    parsed = client.messages.parse(**ASK | {"max_tokens": 100}, output_format=City)
    assert parsed.parsed_output == City(city="Paris", country="France"), parsed
    with client.messages.stream(**ASK | {"max_tokens": 100}, output_format=City) as stream:
        assert stream.get_final_message().parsed_output == parsed.parsed_output


class refused:
    """What is done inside raises this error of the client's, of this type in the body."""

    def __init__(self, kind: type[anthropic.APIStatusError], type: str, told: str = "") -> None:
        self.kind, self.type, self.told = kind, type, told

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        assert type(error) is self.kind, (self.kind, error)
        assert error.body["type"] == "error" and error.body["error"]["type"] == self.type, error.body
        assert self.told in error.body["error"]["message"] and error.request_id, error.body
        return True


def errors() -> None:
    with refused(anthropic.NotFoundError, "not_found_error", "other"):
        client.messages.create(**ASK | {"model": "other"})
    with refused(anthropic.BadRequestError, "invalid_request_error", "temperature"):
        client.messages.create(**ASK | {"extra_body": {"temperature": 2}})
    with refused(anthropic.BadRequestError, "invalid_request_error", "messages"):
        client.messages.create(**ASK | {"messages": []})
    with refused(anthropic.BadRequestError, "invalid_request_error", "image"):
        image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
        client.messages.create(**ASK | {"messages": [{"role": "user", "content": [image]}]})
    with refused(anthropic.BadRequestError, "invalid_request_error", "max_tokens"):
        client.messages.create(**ASK | {"max_tokens": -1})
    long = [{"role": "user", "content": "word " * 20000}]
    with refused(anthropic.BadRequestError, "invalid_request_error"):
        client.messages.create(**ASK | {"messages": long})
    with refused(anthropic.BadRequestError, "invalid_request_error"):
        client.messages.create(**ASK | {"messages": long}, stream=True)
    orphan = [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "other", "content": "x"}]}]
    with refused(anthropic.BadRequestError, "invalid_request_error", "other"):
        client.messages.create(**ASK | {"messages": orphan})
    with refused(anthropic.BadRequestError, "invalid_request_error", "budget_tokens"):
        client.messages.create(**ASK, thinking={"type": "enabled", "budget_tokens": 1024})
    # The model cannot think: who asks it to gets an answer without.
    thinking = {"type": "enabled", "budget_tokens": 1024}
    thoughtless = client.messages.create(**ASK | {"max_tokens": 1100}, thinking=thinking)
    assert [block.type for block in thoughtless.content] == ["text"], thoughtless
    assert client.messages.create(**ASK, thinking={"type": "disabled"}).content[0].text
    with refused(anthropic.NotFoundError, "not_found_error"):
        client.messages.batches.list()


async def asynchronously() -> None:
    answers = await asyncio.gather(*(later.messages.create(**ASK) for _ in range(8)))
    assert len({answer.content[0].text for answer in answers}) == 1
    async with later.messages.stream(**ASK) as stream:
        assert "".join([text async for text in stream.text_stream]) == answers[0].content[0].text


for check in (messages, streams, tools, shapes, errors):
    check()
asyncio.run(asynchronously())
print("ok")
