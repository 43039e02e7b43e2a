"""Server-sent events, byte for byte, and what happens to a stream that goes wrong."""

import asyncio

import msgspec
import pytest

from quire.core.errors import EngineDead
from quire.server.disconnect import while_connected
from quire.server.faces import encode
from quire.server.schema.chat import ChatChunk
from quire.server.schema.completion import CompletionChunk
from quire.server.streaming import EventStream, Frames

pytestmark = pytest.mark.anyio

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "hi"}]


def events(answer):
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    frames = answer.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    return [msgspec.json.decode(frame.removeprefix("data: ")) for frame in frames[:-2]]


async def test_a_chat_stream_byte_for_byte(client, monkeypatch):
    monkeypatch.setattr("quire.server.routes.chat.time.time", lambda: 1700000000.5)
    body = {"messages": HI, "max_tokens": 2, "stream": True, "request_id": "r"}
    answer = await client.post(CHAT, json=body)
    fingerprint = events(answer)[0]["system_fingerprint"]
    head = (
        'data: {"id":"chatcmpl-r","object":"chat.completion.chunk","created":1700000000,"model":"fake",'
        f'"system_fingerprint":"{fingerprint}","choices":['
    )
    assert answer.text == "".join(
        [
            head + '{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}\n\n',
            head + '{"index":0,"delta":{"content":"a"},"logprobs":null,"finish_reason":null}]}\n\n',
            head + '{"index":0,"delta":{"content":"b"},"logprobs":null,"finish_reason":null}]}\n\n',
            head + '{"index":0,"delta":{},"logprobs":null,"finish_reason":"length",',
            '"stop_reason":null,"matched_stop":null}]}\n\n',
            "data: [DONE]\n\n",
        ]
    )


async def test_a_completion_stream_byte_for_byte(client, monkeypatch):
    monkeypatch.setattr("quire.server.routes.completions.time.time", lambda: 1700000000.5)
    body = {"prompt": "x", "max_tokens": 2, "stream": True, "request_id": "r"}
    answer = await client.post(COMPLETIONS, json=body | {"stream_options": {"include_usage": True}})
    fingerprint = events(answer)[0]["system_fingerprint"]
    head = (
        'data: {"id":"cmpl-r","object":"text_completion","created":1700000000,"model":"fake",'
        f'"system_fingerprint":"{fingerprint}","choices":['
    )
    usage = (
        '"usage":{"prompt_tokens":2,"completion_tokens":2,"total_tokens":4,"prompt_tokens_details":{"cached_tokens":0}}'
    )
    chunk = '{"index":0,"text":"%s","logprobs":null,"finish_reason":%s,"stop_reason":null%s}],"usage":null}\n\n'
    assert answer.text == "".join(
        [
            head + chunk % ("a", "null", ""),
            head + chunk % ("b", "null", ""),
            head + chunk % ("", '"length"', ',"matched_stop":null'),
            head + "]," + usage + "}\n\n",
            "data: [DONE]\n\n",
        ]
    )


@pytest.mark.parametrize("text", ['"', "\0", "\\u0000", "\n", "é", "\U0001f600", "</s>"])
@pytest.mark.parametrize("model", ["m", "\0", '","text":"'])
async def test_an_event_around_a_text_is_the_event_with_it(text, model):
    frames = Frames(id="\0", object="o", created=1, model=model, fingerprint="f", has_usage=True, tier="default")

    def choice(text):
        return {"index": 0, "text": text, "stop_reason": None}

    before, behind = frames.around(choice)
    assert before + encode(text) + behind == frames.chunk([choice(text)])


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"n": 2},
        {"stream_options": {"include_usage": True}},
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        {"service_tier": "auto"},
        {"return_token_ids": True},
        {"logprobs": 1},
        {"return_prompt_text": True},
        {"stop": "c"},
        {"echo": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_every_event_of_a_stream_has_the_shape_of_its_kind(client, path, asked):
    if path == CHAT and "logprobs" in asked:
        asked = {"logprobs": True}
    body = {"max_tokens": 4, "stream": True, "ignore_eos": True} | asked
    body |= {"messages": [*HI, {"role": "assistant", "content": "so"}]} if path == CHAT else {"prompt": "x"}
    answer = await client.post(path, json=body)
    frames = [frame.removeprefix("data: ") for frame in answer.text.split("\n\n")[:-2]]
    assert answer.status_code == 200 and len(frames) >= 4, answer.text
    for frame in frames:
        read = msgspec.json.decode(frame, type=ChatChunk if path == CHAT else CompletionChunk, strict=True)
        assert msgspec.json.decode(msgspec.json.encode(read)) == msgspec.json.decode(frame)


@pytest.mark.parametrize("named", [[], [98, 7]])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_a_stream_says_what_the_whole_answer_says(client, path, named):
    body = {"messages": HI, "prompt": "xyz", "max_tokens": 5, "n": 2, "logprobs": True, "logprob_token_ids": named}
    if path == COMPLETIONS:
        body |= {"logprobs": 2, "echo": True}
    body = {k: v for k, v in body.items() if k != ("prompt" if path == CHAT else "messages")}
    whole = (await client.post(path, json=body)).json()
    chunks = events(await client.post(path, json=body | {"stream": True, "stream_options": {"include_usage": True}}))
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    for choice in whole["choices"]:
        mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        assert all(c["finish_reason"] is None for c in mine[:-1])
        if path == CHAT:
            assert "".join(c["delta"].get("content", "") for c in mine) == choice["message"]["content"]
            found = [entry for c in mine if c["logprobs"] for entry in c["logprobs"]["content"]]
            assert found == choice["logprobs"]["content"]
        else:
            assert "".join(c["text"] for c in mine) == choice["text"]
            for name, values in choice["logprobs"].items():
                assert [v for c in mine for v in c["logprobs"][name]] == values


async def test_continuations_are_interleaved(client):
    chunks = events(await client.post(CHAT, json={"messages": HI, "max_tokens": 2, "n": 2, "stream": True}))
    said = [(c["index"], c["delta"].get("content")) for chunk in chunks for c in chunk["choices"]]
    assert said == [(0, ""), (0, "a"), (1, ""), (1, "b"), (0, "b"), (1, "c"), (0, None), (1, None)]


async def test_prompts_are_streamed_together(client):
    body = {"prompt": ["x", "y"], "max_tokens": 2, "n": 2, "stream": True, "stream_options": {"include_usage": True}}
    chunks = events(await client.post(COMPLETIONS, json=body))
    texts = {i: "".join(c["text"] for chunk in chunks for c in chunk["choices"] if c["index"] == i) for i in range(4)}
    assert texts == {0: "ab", 1: "bc", 2: "ab", 3: "bc"}
    assert chunks[-1]["usage"]["completion_tokens"] == 8


async def test_usage_on_every_chunk(client):
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"messages": HI, "max_tokens": 2, "stream": True, "stream_options": options}
    counts = [chunk["usage"]["completion_tokens"] for chunk in events(await client.post(CHAT, json=body))]
    assert counts == [0, 1, 2, 2, 2]
    counts = [chunk["usage"]["completion_tokens"] for chunk in events(await client.post(CHAT, json=body | {"n": 3}))]
    assert counts == sorted(counts) and counts[-1] == 6
    body["stream_options"] = {"continuous_usage_stats": True}
    assert all("usage" not in chunk for chunk in events(await client.post(CHAT, json=body)))


async def test_tokens_are_shown_when_asked_for(client):
    body = {"messages": HI, "max_tokens": 2, "stream": True, "return_token_ids": True}
    chunks = events(await client.post(CHAT, json=body))
    assert chunks[0]["prompt_token_ids"] == list(b"u:hi|a:")
    assert all("prompt_token_ids" not in chunk for chunk in chunks[1:])
    assert [t for chunk in chunks for t in chunk["choices"][0].get("token_ids", [])] == [97, 98]


async def test_scoring_a_prompt(client):
    body = {"prompt": "xy", "max_tokens": 0, "echo": True, "logprobs": 0, "stream": True, "add_special_tokens": False}
    chunks = events(await client.post(COMPLETIONS, json=body))
    assert "".join(c["text"] for chunk in chunks for c in chunk["choices"]) == "xy"
    assert [t for chunk in chunks for t in chunk["choices"][0]["logprobs"]["tokens"]] == ["x", "y"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("error", "code"), [(EngineDead("It died."), "engine_dead"), (RuntimeError("/usr/secret"), "internal_error")]
)
async def test_an_error_after_the_first_byte_is_an_event(client, llm, error, code):
    llm.breaks = error
    chunks = events(await client.post(CHAT, json={"messages": HI, "stream": True}))
    assert [set(chunk) for chunk in chunks] == [{"error"}]
    assert chunks[0]["error"]["code"] == code
    assert "secret" not in str(chunks)
    assert not llm.streams


async def test_an_error_before_the_first_byte_is_a_status(client, llm):
    llm.refuses = EngineDead("It died.", retry_after_s=3)
    answer = await client.post(CHAT, json={"messages": HI, "stream": True})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
    assert answer.json()["error"]["code"] == "engine_dead"


class Wire:
    """An ASGI client that can hang up."""

    def __init__(self):
        self.gone = asyncio.Event()
        self.sent = []
        self.sent_one = asyncio.Event()

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)
        self.sent_one.set()


async def test_silence_is_broken_by_comments():
    wire, go = Wire(), asyncio.Event()

    async def slowly():
        await go.wait()
        yield b"data: x\n\n"

    closed = []
    stream = EventStream(slowly(), lambda: closed.append(1), keep_alive_s=0.001, request_id="r")
    task = asyncio.ensure_future(stream({"type": "http"}, wire.receive, wire.send))
    while len(wire.sent) < 3:
        wire.sent_one.clear()
        await wire.sent_one.wait()
    go.set()
    await task
    bodies = [message["body"] for message in wire.sent[1:]]
    assert bodies[:2] == [b": keep-alive\n\n"] * 2
    assert bodies[-2:] == [b"data: x\n\n", b"data: [DONE]\n\n"]
    assert wire.sent[-1]["more_body"] is False
    assert closed == [1]


async def test_a_client_that_hangs_up_ends_the_work():
    wire, began, ended = Wire(), asyncio.Event(), []

    async def for_ever():
        try:
            began.set()
            await asyncio.Event().wait()
            yield b""
        finally:
            ended.append(1)

    stream = EventStream(for_ever(), lambda: ended.append(2), keep_alive_s=0, request_id="r")
    task = asyncio.ensure_future(stream({"type": "http"}, wire.receive, wire.send))
    await began.wait()
    wire.gone.set()
    await task
    assert ended == [1, 2]


async def test_work_that_is_done_wins_over_a_client_that_is_gone():
    wire = Wire()
    wire.gone.set()

    async def work():
        return 5

    assert await while_connected(wire.receive, work()) == 5
