"""The official client: models, chats, streams, tools, structured output, completions, responses, errors."""

import asyncio
import json
import sys
from typing import Literal

import openai
from pydantic import BaseModel, Field

client = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0)
later = openai.AsyncOpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0)
MODEL = client.models.list().data[0].id
assert client.models.retrieve(MODEL).id == MODEL

HI = [{"role": "user", "content": "What is the capital of France?"}]
ASK = {"model": MODEL, "messages": HI, "temperature": 0, "max_completion_tokens": 20}


class City(BaseModel):
    city: str = Field(max_length=20)
    country: Literal["France", "Italy"]
    size: int = Field(ge=1, le=9)


class Weather(BaseModel):
    """The weather of a city"""

    city: Literal["Paris", "Rome"]
    days: int = Field(ge=1, le=9)


WEATHER = openai.pydantic_function_tool(Weather, name="weather")


def valid(answer: BaseModel) -> BaseModel:
    """The client itself takes anything: hold it against the client's types."""
    return type(answer).model_validate(answer.to_dict())


def tokens(text: str) -> list[int]:
    return client.post(f"{sys.argv[1]}/tokenize", body={"prompt": text}, cast_to=object)["tokens"]


def chats() -> None:
    answer = valid(client.chat.completions.create(**ASK))
    assert "Paris" in answer.choices[0].message.content and answer.model == MODEL, answer
    assert answer.id.startswith("chatcmpl-") and answer.system_fingerprint, answer
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens

    with client.chat.completions.stream(**ASK, stream_options={"include_usage": True}) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        whole = stream.get_final_completion()
    assert text == whole.choices[0].message.content == answer.choices[0].message.content
    assert whole.usage.completion_tokens == answer.usage.completion_tokens, whole.usage

    chunks = list(client.chat.completions.create(**ASK, n=2, stream=True, stream_options={"include_usage": True}))
    for chunk in chunks:
        valid(chunk)
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}
    assert chunks[0].choices[0].delta.role == "assistant" and not chunks[-1].choices and chunks[-1].usage
    assert len({chunk.id for chunk in chunks}) == 1

    cut = client.chat.completions.create(**ASK | {"max_completion_tokens": 2})
    assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == 2, cut
    stopped = client.chat.completions.create(**ASK, stop=[" Paris"])
    assert stopped.choices[0].finish_reason == "stop" and "Paris" not in stopped.choices[0].message.content

    banned = answer.choices[0].message.content.split()[0]
    other = client.chat.completions.create(**ASK, logit_bias={str(tokens(banned)[0]): -100})
    assert not other.choices[0].message.content.startswith(banned), other

    parts = [{"role": "user", "content": [{"type": "text", "text": HI[0]["content"]}]}]
    raw = client.chat.completions.with_raw_response.create(**ASK | {"messages": parts})
    assert raw.request_id == raw.headers["x-request-id"] and raw.request_id in raw.parse().id, raw.headers
    assert raw.headers["content-type"].startswith("application/json")
    assert raw.parse().choices[0].message.content == answer.choices[0].message.content


def scores() -> None:
    answer = valid(client.chat.completions.create(**ASK, logprobs=True, top_logprobs=3))
    shown = answer.choices[0].logprobs.content
    assert len(shown) == answer.usage.completion_tokens or answer.choices[0].finish_reason == "stop", answer
    assert b"".join(bytes(one.bytes) for one in shown).decode().startswith(answer.choices[0].message.content)
    for one in shown:
        assert len(one.top_logprobs) == 3 and one.logprob == one.top_logprobs[0].logprob <= 0, one

    chunks = list(client.chat.completions.create(**ASK, logprobs=True, top_logprobs=1, stream=True))
    streamed = [
        one for chunk in chunks for choice in chunk.choices if choice.logprobs for one in choice.logprobs.content
    ]
    assert [one.token for one in streamed] == [one.token for one in shown], streamed


def tools() -> None:
    ask = ASK | {"max_completion_tokens": 100, "tools": [WEATHER]}
    ask["messages"] = [{"role": "user", "content": "What is the weather in Paris on the next 3 days?"}]
    answer = valid(client.chat.completions.create(**ask, tool_choice="required"))
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls" and choice.message.content is None, answer
    made = choice.message.tool_calls[0]
    assert made.type == "function" and made.function.name == "weather" and made.id, made
    Weather.model_validate_json(made.function.arguments)

    forced = {"type": "function", "function": {"name": "weather"}}
    with client.chat.completions.stream(**ask, tool_choice=forced) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        whole = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert done[0].name == "weather" and done[0].arguments == whole.function.arguments
    assert isinstance(done[0].parsed_arguments, Weather) and isinstance(whole.function.parsed_arguments, Weather)

    clock = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
    both = ask | {"tools": [WEATHER, clock]}
    for names in (["weather"], ["clock"], ["clock", "weather"]):
        named = [{"type": "function", "function": {"name": name}} for name in names]
        choice_of = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": named}}
        one = valid(client.chat.completions.create(**both, tool_choice=choice_of)).choices[0]
        assert one.message.tool_calls and {call.function.name for call in one.message.tool_calls} <= {*names}, one
        with client.chat.completions.stream(**both, tool_choice=choice_of) as stream:
            streamed = stream.get_final_completion().choices[0]
        assert streamed.finish_reason == one.finish_reason, streamed
        told = [[call.function.arguments for call in end.message.tool_calls] for end in (streamed, one)]
        assert told[0] == told[1], told
    choice_of["allowed_tools"]["mode"] = "auto"
    valid(client.chat.completions.create(**both, tool_choice=choice_of))

    parsed = client.chat.completions.parse(**ask, tool_choice="required", parallel_tool_calls=False)
    (one,) = parsed.choices[0].message.tool_calls
    assert isinstance(one.function.parsed_arguments, Weather), parsed

    # Of itself, a small model calls nothing: here it may answer only as one does that calls twice.
    call = '<tool_call>\\n[{]"name": "weather", "arguments": [{]"city": "(Paris|Rome)", "days": 3}}\\n</tool_call>\\n?'
    led = ask | {"extra_body": {"structured_outputs": {"regex": f"({call}){{2}}"}}}
    twice = client.chat.completions.create(**led, tool_choice="auto").choices[0]
    assert twice.finish_reason == "tool_calls" and len({one.id for one in twice.message.tool_calls}) == 2, twice
    with client.chat.completions.stream(**led) as stream:
        streamed = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
    assert [event.index for event in streamed] == [0, 1], streamed
    assert all(isinstance(event.parsed_arguments, Weather) for event in streamed), streamed

    results = [{"role": "tool", "tool_call_id": one.id, "content": "Sunny"} for one in choice.message.tool_calls]
    turns = [*ask["messages"], choice.message, *results]
    told = client.chat.completions.create(**ask | {"messages": turns}, tool_choice="none")
    assert told.choices[0].message.content and not told.choices[0].message.tool_calls, told


def shapes() -> None:
    ask = ASK | {"max_completion_tokens": 100}
    parsed = client.chat.completions.parse(**ask, response_format=City).choices[0].message.parsed
    assert parsed.city == "Paris" and parsed.country == "France", parsed
    with client.chat.completions.stream(**ask, response_format=City) as stream:
        done = [event for event in stream if event.type == "content.done"]
    assert done[0].parsed == parsed, done
    anything = client.chat.completions.create(**ask, response_format={"type": "json_object"}, logprobs=True)
    assert anything.choices[0].finish_reason == "length" or json.loads(anything.choices[0].message.content) is not None
    chosen = client.chat.completions.create(**ask, extra_body={"structured_outputs": {"choice": ["Rome", "Paris"]}})
    assert chosen.choices[0].message.content == "Paris", chosen


def completions() -> None:
    ask = {"model": MODEL, "prompt": "The capital of France is", "temperature": 0, "max_tokens": 4}
    valid(client.completions.create(**ask, logprobs=2))
    scored = client.completions.create(**ask, logprobs=2, echo=True)
    lists = scored.choices[0].logprobs
    assert len(lists.tokens) == scored.usage.total_tokens and lists.token_logprobs[0] is None
    assert "".join(lists.tokens) == scored.choices[0].text and scored.choices[0].text.startswith(ask["prompt"])
    assert all(len(top) in (2, 3) for top in lists.top_logprobs[1:]), lists.top_logprobs
    for start, token in zip(lists.text_offset, lists.tokens, strict=True):
        assert scored.choices[0].text[start:].startswith(token), lists

    several = client.completions.create(**ask | {"prompt": [ask["prompt"], "One, two, three,"]}, n=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert "Paris" in several.choices[1].text and "four" in several.choices[2].text, several
    streamed = "".join(
        chunk.choices[0].text for chunk in client.completions.create(**ask, stream=True) if chunk.choices
    )
    assert streamed == several.choices[0].text
    assert client.completions.create(**ask | {"prompt": tokens(ask["prompt"])}).choices[0].text == streamed


def responses() -> None:
    ask = {"model": MODEL, "input": HI[0]["content"], "temperature": 0, "max_output_tokens": 100}
    first = valid(client.responses.create(**ask, metadata={"kind": "test"}))
    assert "Paris" in first.output_text and first.status == "completed" and first.metadata == {"kind": "test"}
    assert client.responses.retrieve(first.id).output_text == first.output_text
    (said,) = client.responses.input_items.list(first.id).data
    assert said.content[0].text == ask["input"], said
    counted = client.responses.input_tokens.count(model=MODEL, input=ask["input"])
    assert counted.input_tokens == first.usage.input_tokens, counted
    again = client.responses.create(**ask | {"input": "And of Italy?"}, previous_response_id=first.id)
    assert again.usage.input_tokens > first.usage.input_tokens and again.previous_response_id == first.id
    client.responses.delete(first.id)
    with refused(openai.NotFoundError):
        client.responses.retrieve(first.id)

    with client.responses.stream(**ask) as stream:
        events = list(stream)
        whole = stream.get_final_response()
    kinds = [event.type for event in events]
    for event in client.responses.create(**ask, stream=True):
        valid(event)
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed", kinds
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == first.output_text

    parsed = client.responses.parse(**ask, text_format=City)
    assert parsed.output_parsed.city == "Paris", parsed
    tool = {"type": "function", "name": "weather", "strict": True, "parameters": WEATHER["function"]["parameters"]}
    asked = "What is the weather in Paris on the next 3 days?"
    with client.responses.stream(**ask | {"input": asked}, tools=[tool], tool_choice="required") as stream:
        done = [event for event in stream if event.type == "response.function_call_arguments.done"]
        called = stream.get_final_response()
    (call, *_) = [item for item in called.output if item.type == "function_call"]
    assert done[0].arguments == call.arguments and Weather.model_validate_json(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"}
    rest = [item for item in called.output if item.type == "function_call" and item != call]
    results = [result, *({**result, "call_id": item.call_id} for item in rest)]
    told = client.responses.create(**ask | {"input": results}, previous_response_id=called.id)
    assert told.output_text, told

    started = client.responses.create(**ask, background=True)
    while (state := client.responses.retrieve(started.id)).status in ("queued", "in_progress"):
        pass
    assert state.output_text == first.output_text
    assert client.responses.cancel(client.responses.create(**ask, background=True).id).status in (
        "cancelled",
        "completed",
    )


class refused:
    """What is done inside raises this error of the client's, with a message in the body."""

    def __init__(self, kind: type[openai.APIStatusError], told: str = "") -> None:
        self.kind, self.told = kind, told

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        assert type(error) is self.kind, (self.kind, error)
        assert error.body["message"] and error.request_id and self.told in str(error), error
        return True


def errors() -> None:
    create = client.chat.completions.create
    with refused(openai.NotFoundError, "other"):
        create(**ASK | {"model": "other"})
    with refused(openai.NotFoundError):
        client.models.retrieve("other")
    with refused(openai.BadRequestError, "temperature"):
        create(**ASK | {"temperature": 9})
    with refused(openai.BadRequestError, "messages"):
        create(**ASK | {"messages": []})
    with refused(openai.BadRequestError, "image"):
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
        create(**ASK | {"messages": [{"role": "user", "content": [image]}]})
    with refused(openai.BadRequestError, "context"):
        create(**ASK | {"messages": [{"role": "user", "content": "word " * 20000}]})
    with refused(openai.BadRequestError, "context"):
        create(**ASK | {"messages": [{"role": "user", "content": "word " * 20000}]}, stream=True)
    with refused(openai.BadRequestError):
        create(**ASK, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "odd"}}})
    with refused(openai.NotFoundError):
        client.embeddings.create(model=MODEL, input="text")


async def asynchronously() -> None:
    answers = await asyncio.gather(*(later.chat.completions.create(**ASK) for _ in range(8)))
    assert len({answer.choices[0].message.content for answer in answers}) == 1
    async with later.chat.completions.stream(**ASK) as stream:
        text = "".join([event.delta async for event in stream if event.type == "content.delta"])
    assert text == answers[0].choices[0].message.content
    left = await later.chat.completions.create(**ASK | {"max_completion_tokens": 2000}, stream=True)
    async for _ in left:
        break
    await left.close()
    assert [one.id async for one in later.models.list()] == [MODEL]


for check in (chats, scores, tools, shapes, completions, responses, errors):
    check()
asyncio.run(asynchronously())
print("ok")
