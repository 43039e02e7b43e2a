"""A real server on a loopback port: official client, raw sockets, clients that hang up, signals."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import time
import uuid
from email.utils import parsedate_to_datetime

import openai
import pytest

from quire.core.config import ServerConfig
from quire.core.errors import ConfigError
from quire.server import short_way
from quire.server.app import create_app
from quire.server.serve import Server, bind, serve
from quire.text.dialects.parsing import ReaderParser

pytestmark = pytest.mark.anyio

HI = [{"role": "user", "content": "hi"}]
HEAD = "HTTP/1.1\r\nHost: localhost\r\n"


class Live:
    """A serving server, and ways to talk to it."""

    def __init__(self, port, server, task):
        self.port, self.server, self.task = port, server, task
        self.url = f"http://127.0.0.1:{port}"

    def openai(self, **settings):
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, **settings})

    async def connect(self):
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def say(self, data):
        """Send raw bytes, hear everything until the server closes."""
        reader, writer = await self.connect()
        with contextlib.suppress(ConnectionError):
            writer.write(data)
            await writer.drain()
        heard = b""
        with contextlib.suppress(ConnectionError):
            heard = await reader.read()
        writer.close()
        return heard

    async def post(self, path, body):
        """A connection on which a request was sent."""
        reader, writer = await self.connect()
        data = json.dumps(body).encode()
        head = f"POST {path} {HEAD}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        await writer.drain()
        return reader, writer


@pytest.fixture
async def live(llm):
    """``await live(**server settings)``."""
    running = []

    async def start(**settings):
        config = ServerConfig(port=0, **settings)
        listener = bind(config)
        lines = []
        server = Server(create_app(llm, config, ["fake"]), config, lines.append)
        task = asyncio.ensure_future(server.serve([listener]))
        while not lines:
            assert not task.done(), task.exception()
            await asyncio.sleep(0)
        assert lines == [f"Quire serves fake at http://127.0.0.1:{listener.getsockname()[1]}"]
        running.append((server, task))
        return Live(listener.getsockname()[1], server, task)

    yield start
    for server, task in running:
        if not task.done():
            server.stop()
            server.stop()
        await task


async def test_the_official_client(live):
    async with (await live()).openai() as client:
        assert [model.id async for model in client.models.list()] == ["fake"]
        assert (await client.models.retrieve("fake")).id == "fake"
        answer = await client.chat.completions.create(
            model="fake", messages=HI, max_tokens=3, n=2, logprobs=True, top_logprobs=2, extra_body={"top_k": 3}
        )
        assert [choice.message.content for choice in answer.choices] == ["abc", "bcd"]
        assert answer.choices[0].logprobs.content[0].top_logprobs[0].token == "b"
        assert answer.usage.total_tokens == 13
        answer = await client.completions.create(model="fake", prompt=["x", "y"], max_tokens=2, logprobs=1)
        assert [choice.text for choice in answer.choices] == ["ab", "ab"]
        said, usage = "", None
        async for chunk in await client.chat.completions.create(
            model="fake", messages=HI, max_tokens=4, stream=True, stream_options={"include_usage": True}
        ):
            said += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage = chunk.usage or usage
        assert (said, usage.completion_tokens) == ("abcd", 4)
        stream = await client.completions.create(model="fake", prompt="x", max_tokens=4, stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == "abcd"


async def test_errors_reach_the_official_client_as_its_own(live, llm):
    server = await live(api_key=["right"])
    async with server.openai(api_key="wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
    async with server.openai(api_key="right") as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="gpt-9", messages=HI)
        assert caught.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="fake", messages=HI, temperature=3)
        assert caught.value.param == "$.temperature"
        llm.breaks = RuntimeError("boom")
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="fake", messages=HI)
        stream = await client.chat.completions.create(model="fake", messages=HI, stream=True)
        with pytest.raises(openai.APIError, match="failed while processing"):
            await anext(stream)


@pytest.mark.parametrize("num_tokens", [0, 2])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/chat/completions", {"messages": HI}), ("/v1/completions", {"prompt": ["x", "y"], "n": 2})],
)
async def test_a_client_that_hangs_up_frees_the_engine(live, llm, path, body, stream, num_tokens):
    llm.close_gate()
    server = await live()
    reader, writer = await server.post(path, {**body, "stream": stream})
    await llm.submitted.wait()
    llm.release(num_tokens)
    if stream and num_tokens:
        await reader.readuntil(b"data: ")
    writer.transport.abort()
    await llm.aborted_one.wait()
    await server.server._service.idle()
    assert not llm.streams
    answer = await server.say(f"GET /health {HEAD}Connection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 200")


async def test_tokens_go_out_as_they_come(live, llm):
    llm.close_gate()
    reader, writer = await (await live()).post("/v1/completions", {"prompt": "x", "stream": True, "max_tokens": 3})
    await reader.readuntil(b"\r\n\r\n")
    for letter in (b"a", b"b", b"c"):
        llm.release()
        assert b'"text":"%b"' % letter in await reader.readuntil(b"\n\n")
    assert (await reader.readuntil(b"[DONE]\n\n")).endswith(b"data: [DONE]\n\n")
    writer.close()


CALLING = {"messages": HI, "tools": [{"type": "function", "function": {"name": "f"}}]}
SAYS_A_CALL = 'I\'ll "see" 100%.\n<tool_call>\n{"name": "f", "arguments": {"é": 1}}\n</tool_call>'


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v1/chat/completions", {"messages": HI}, 'a "text"\n of 100%é\x00\U0001f600'),
        ("/v1/chat/completions", {"messages": HI, "stream_options": {"include_usage": True}}, None),
        ("/v1/chat/completions", {"messages": HI, "stream_options": {"continuous_usage_stats": True}}, None),
        ("/v1/chat/completions", {"messages": HI, "return_token_ids": True}, None),
        ("/v1/chat/completions", CALLING, SAYS_A_CALL),
        ("/v1/completions", {"prompt": "x"}, 'a "text"\n of 100%é\x00\U0001f600'),
        ("/v1/completions", {"prompt": "x", "echo": True, "stream_options": {"include_usage": True}}, None),
        ("/v1/responses", {"input": "hi", "store": False}, None),
        ("/v1/messages", {"messages": HI}, None),
        ("/v1/messages", {"messages": HI, "tools": [{"name": "f", "input_schema": {}}]}, SAYS_A_CALL),
        ("/api/chat", {"messages": HI, "tools": CALLING["tools"]}, SAYS_A_CALL),
    ],
)
async def test_the_short_way_says_what_the_long_one_does(live, llm, monkeypatch, path, body, says):
    """HTTP/1.0 has no chunks, and so no short way; both answers are the same to the byte."""
    monkeypatch.setattr("time.time", lambda: 1234567890.0)
    monkeypatch.setattr("uuid.uuid4", lambda: uuid.UUID(int=7))
    llm.says = says
    server = await live()
    limit = {"/v1/responses": {"max_output_tokens": 20}, "/api/chat": {"options": {"num_predict": 20}}}
    data = json.dumps({"model": "fake", "stream": True, **limit.get(path, {"max_tokens": 20}), **body}).encode()
    heard = []
    for version in ("1.1", "1.0"):
        llm.num_tapped = 0
        head = f"POST {path} HTTP/{version}\r\nHost: localhost\r\nContent-Type: application/json\r\nX-Request-Id: 7\r\n"
        answer = await server.say(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
        assert (llm.num_tapped > 0) == (version == "1.1"), answer
        head, _, content = answer.partition(b"\r\n\r\n")
        content = b"".join(chunks(content)) if b"chunked" in head else content
        heard.append(re.sub(rb'_duration":\d+', b"", content))
    assert heard[0] == heard[1]


def chunks(content):
    while content:
        size, _, content = content.partition(b"\r\n")
        yield content[: int(size, 16)]
        content = content[int(size, 16) + 2 :]


async def test_a_slow_client_gets_everything(live, llm):
    """What it does not take waits in the engine's client, merged, and goes the long way until there is room again."""
    llm.close_gate()
    llm.says = "0123456789" * 400
    server = await live()
    reader, writer = await server.connect()
    writer.transport.pause_reading()
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    data = b'{"prompt":"x","stream":true}'
    head = f"POST /v1/completions {HEAD}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    writer.write(head.encode() + b"Connection: close\r\n\r\n" + data)
    await llm.submitted.wait()
    (connection,) = server.server.server_state.connections
    connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    num_told = 0
    while not connection.flow.write_paused:
        llm.release()
        num_told += 1
        assert num_told < len(llm.says), "so much fits into no buffer"
        for _ in range(3):
            await asyncio.sleep(0)
    num_tapped = llm.num_tapped
    assert num_tapped > 10
    llm.release(50)
    (stream,) = llm.streams
    while len(stream.choices[0].text) < num_told + 50:
        await asyncio.sleep(0)
    assert llm.num_tapped == num_tapped, "nothing may be written"
    writer.transport.resume_reading()
    hearing = asyncio.ensure_future(reader.read())
    while not stream.is_waited_for or connection.flow.write_paused:
        await asyncio.sleep(0)
    llm.release()
    while llm.num_tapped == num_tapped:
        await asyncio.sleep(0)
    llm.release(len(llm.says))
    heard = await hearing
    assert b"data: [DONE]" in heard
    events = [json.loads(line[6:]) for line in heard.split(b"\n") if line.startswith(b"data: {")]
    assert "".join(event["choices"][0]["text"] for event in events) == llm.says
    writer.close()


@pytest.mark.parametrize(
    ("owner", "name", "body"),
    [
        (ReaderParser, "push", CALLING),
        (short_way, "encode", {"messages": HI}),
        (short_way, "encode", {"prompt": "x"}),
    ],
)
async def test_what_breaks_in_a_tap_is_told_to_its_own_client(live, llm, monkeypatch, owner, name, body):
    server = await live()
    sound = getattr(owner, name)

    def breaks(*args):
        if args[-1] == "!":
            raise ZeroDivisionError
        return sound(*args)

    monkeypatch.setattr(owner, name, breaks)
    llm.says = "abcd" * 10 + "!" + "efgh" * 1000
    async with server.openai() as client:
        face = client.completions if "prompt" in body else client.chat.completions
        stream = await face.create(model="fake", stream=True, **body)
        said = ""
        with pytest.raises(openai.APIError, match="failed"):
            async for chunk in stream:
                said += (chunk.choices[0].text if "prompt" in body else chunk.choices[0].delta.content) or ""
        assert said == "abcd" * 10 and llm.num_tapped > 0
    await server.server._service.idle()
    assert not llm.streams and len(llm.aborted) == 1, "its work in the engine is given up"


async def test_every_answer_has_the_date(live):
    heard = await (await live()).say(f"GET /health {HEAD}Connection: close\r\n\r\n".encode())
    (date,) = [line[6:] for line in heard.decode().split("\r\n") if line.lower().startswith("date: ")]
    assert abs(parsedate_to_datetime(date).timestamp() - time.time()) < 10


async def test_one_stream_does_not_hold_up_another(live, llm):
    """Two streams over one engine each get every token, in step."""
    llm.close_gate()
    server = await live()
    readers = [await server.post("/v1/completions", {"prompt": "x", "stream": True, "max_tokens": 2}) for _ in "12"]
    while len(llm.streams) < 2:
        await asyncio.sleep(0)
    for letter in (b"a", b"b"):
        llm.release(2)
        for reader, _ in readers:
            assert b'"text":"%b"' % letter in await reader.readuntil(b'"text":"%b"' % letter)
    for _, writer in readers:
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"x-long: " + b"x" * 33_000_000 + b"\r\n",
        b"".join(b"x-%d: 1\r\n" % i for i in range(100_000)),
        b"x-long: " + b"x" * 100_000 + b"\r\n",
    ],
    ids=["33 MB header", "100,000 headers", "100 KB header"],
)
async def test_heads_over_the_limit(live, head):
    server = await live()
    heard = await server.say(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n")
    assert heard == b"" or heard.split()[1] in (b"400", b"431")
    assert (await server.say(f"GET /health {HEAD}Connection: close\r\n\r\n".encode())).startswith(b"HTTP/1.1 200")


async def test_many_header_lines(live):
    lines = "".join(f"x-{i}: 1\r\n" for i in range(200))
    heard = await (await live()).say(f"GET /health {HEAD}{lines}\r\n".encode())
    assert heard.startswith(b"HTTP/1.1 431") and b'"code":"headers_too_large"' in heard


async def test_chunked_bodies_over_the_limit(live):
    server = await live(max_body_bytes=10_000)
    head = f"POST /v1/completions {HEAD}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    heard = await server.say(head.encode() + (b"1000\r\n" + b"x" * 4096 + b"\r\n") * 4 + b"0\r\n\r\n")
    assert heard.startswith(b"HTTP/1.1 413") and b'"code":"request_too_large"' in heard


async def test_announced_bodies_over_the_limit_are_not_waited_for(live):
    head = f"POST /v1/completions {HEAD}Content-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n"
    assert (await (await live()).say(head.encode())).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /health HT", f"GET /health {HEAD}".encode()],
    ids=["nothing", "half a line", "half a head"],
)
async def test_a_head_that_never_ends(live, sent):
    heard = await (await live(header_timeout_s=0.05)).say(sent)
    assert heard.startswith(b"HTTP/1.1 408") and b'"code":"request_timeout"' in heard


async def test_a_body_that_never_ends(live):
    server = await live(header_timeout_s=0.05)
    head = f"POST /v1/completions {HEAD}Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{{"
    reader, writer = await server.connect()
    writer.write(head.encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    writer.close()


async def test_a_long_answer_outlives_the_time_for_asking(live, llm):
    llm.close_gate()
    server = await live(header_timeout_s=0.02)
    reader, writer = await server.post("/v1/completions", {"prompt": "x", "stream": True, "max_tokens": 1})
    await reader.readuntil(b"\r\n\r\n")
    passed = asyncio.Event()
    asyncio.get_running_loop().call_later(0.06, passed.set)
    await passed.wait()
    llm.release()
    assert b"[DONE]" in await reader.readuntil(b"[DONE]")
    writer.close()


IN_CHUNKS = f"POST /v1/completions {HEAD}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST / HTTP/1.1\r\n\r\n",
        (IN_CHUNKS + "no length\r\n").encode(),
        (IN_CHUNKS + "1\r\n{\r\n-1\r\n}").encode(),
    ],
)
async def test_what_is_not_http(live, data):
    heard = await (await live()).say(data)
    assert heard.startswith(b"HTTP/1.1 400") and b'{"error":{"message":' in heard


async def test_a_request_has_one_answer_whatever_its_body_turns_out_to_be(live):
    reader, writer = await (await live()).connect()
    writer.write(f"{IN_CHUNKS}1\r\n{{\r\n".replace("application/json", "text/plain").encode())
    assert b" 415 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(b"no length\r\n")
    assert b"HTTP/1.1" not in await reader.read()
    writer.close()


async def test_a_drain_lets_requests_end(live, llm):
    llm.close_gate()
    server = await live()
    reader, writer = await server.post("/v1/completions", {"prompt": "x", "stream": True, "max_tokens": 1})
    await reader.readuntil(b"\r\n\r\n")
    server.server.stop()
    await asyncio.sleep(0)
    for path, status in (("/health", b"503"), ("/readyz", b"503"), ("/livez", b"200")):
        assert (await server.say(f"GET {path} {HEAD}Connection: close\r\n\r\n".encode())).split()[1] == status
    llm.release()
    assert b"[DONE]" in await reader.readuntil(b"[DONE]")
    writer.close()
    await server.task
    with pytest.raises(ConnectionError):
        await server.connect()


async def test_a_drain_ends_at_its_time(live, llm):
    llm.close_gate()
    server = await live(shutdown_timeout_s=0.01)
    streaming, first = await server.post("/v1/completions", {"prompt": "x", "stream": True})
    whole, second = await server.post("/v1/completions", {"prompt": "x"})
    while len(llm.streams) < 2:
        await asyncio.sleep(0)
    server.server.stop()
    heard = await streaming.read()
    assert b'"finish_reason":"abort"' in heard and b"data: [DONE]\n\n" in heard
    assert b'"finish_reason":"abort"' in await whole.read()
    await server.task
    first.close()
    second.close()


async def test_a_second_signal_ends_at_once(live, llm):
    llm.close_gate()
    server = await live(shutdown_timeout_s=1000)
    reader, writer = await server.post("/v1/completions", {"prompt": "x", "stream": True})
    await reader.readuntil(b"\r\n\r\n")
    server.server.stop()
    server.server.stop()
    await server.task
    assert not llm.streams
    writer.close()


async def test_signals_are_heard(llm):
    config = ServerConfig(port=0)
    ready = asyncio.Event()
    task = asyncio.ensure_future(serve(llm, config, ["fake"], bind(config), announce=lambda line: ready.set()))
    await ready.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await task == 0


def test_a_taken_port_is_told():
    listener = bind(ServerConfig(port=0))
    listener.listen()
    port = listener.getsockname()[1]
    with pytest.raises(ConfigError, match=f"127.0.0.1:{port}.*--port"):
        bind(ServerConfig(port=port))
    listener.close()
    with pytest.raises(ConfigError, match="--host"):
        bind(ServerConfig(host="no such host"))
