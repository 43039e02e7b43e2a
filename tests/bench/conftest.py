"""A server that plays what a test writes into it, word tokenizers, and answers whose times are made up."""

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from quire.bench.answer import Answer

Play = Callable[["Exchange"], Awaitable[None]]


def event(text: str | None = None, *, finish: str | None = None, **fields: Any) -> bytes:
    """One event of a completions stream; without text and finish, only what is in ``fields``."""
    choices = [] if text is None and finish is None else [{"index": 0, "text": text, "finish_reason": finish}]
    return b"data: " + json.dumps({"choices": choices, **fields}).encode() + b"\n\n"


def usage(prompt: int, completion: int) -> bytes:
    return event(usage={"prompt_tokens": prompt, "completion_tokens": completion})


DONE = b"data: [DONE]\n\n"


class Exchange:
    """One request, and how to answer it."""

    def __init__(self, path: str, headers: dict[str, str], body: Any, writer: asyncio.StreamWriter) -> None:
        self.path, self.headers, self.body = path, headers, body
        self._writer = writer

    async def json(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self._writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        await self._writer.drain()

    async def begin(self) -> None:
        self._writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")

    async def piece(self, data: bytes) -> None:
        self._writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await self._writer.drain()

    async def end(self) -> None:
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    async def stream(self, *pieces: bytes) -> None:
        await self.begin()
        for piece in pieces:
            await self.piece(piece)
        await self.end()

    def hang_up(self) -> None:
        self._writer.transport.abort()


class Server:
    """``play`` answers every POST but the profiler's; GET lists ``models``."""

    def __init__(self) -> None:
        self.play: Play = answer_fully
        self.models: Any = {"data": [{"id": "words", "root": "org/words"}]}
        self.profiler_status = 200
        self.exchanges: list[Exchange] = []
        self.url = ""
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in head[1:] if line)}
                data = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = head[0].split(" ")
                exchange = Exchange(path, headers, json.loads(data) if data else None, writer)
                self.exchanges.append(exchange)
                if method == "GET":
                    await exchange.json(200 if path == "/v1/models" else 404, self.models)
                elif path.endswith("_profile"):
                    await exchange.json(self.profiler_status, {})
                else:
                    await self.play(exchange)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @property
    def completions(self) -> list[Exchange]:
        return [exchange for exchange in self.exchanges if exchange.path.endswith("/completions")]


async def answer_fully(exchange: Exchange) -> None:
    """As many words as asked for, counted by words."""
    num = exchange.body["max_tokens"]
    words = [event(" la", finish="length" if i == num - 1 else None) for i in range(num)]
    prompt = exchange.body.get("prompt") or exchange.body["messages"][0]["content"]
    await exchange.stream(*words, usage(len(prompt.split()), num), DONE)


class Words:
    """A tokenizer: a token is a word, the first one is put there."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [0] * add_special_tokens + [len(word) for word in text.split()]


@pytest.fixture
def with_server() -> Callable[[Callable[[Server], Awaitable[None]]], None]:
    """Runs a scenario on the loop of a server."""

    def run(scenario: Callable[[Server], Awaitable[None]]) -> None:
        async def both() -> None:
            server = Server()
            await server.start()
            try:
                await scenario(server)
            finally:
                await server.stop()

        asyncio.run(asyncio.wait_for(both(), 30))

    return run


@pytest.fixture
def server() -> Iterator[Server]:
    """A server in a thread of its own."""
    server, loop = Server(), asyncio.new_event_loop()
    loop.run_until_complete(server.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def finish() -> None:
        await server.stop()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    yield server
    asyncio.run_coroutine_threadsafe(finish(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> Words:
    """The tokenizer of every model."""
    tokenizer = Words()
    monkeypatch.setattr("quire.bench.serve.load_tokenizer", lambda name: tokenizer)
    return tokenizer


@pytest.fixture(autouse=True)
def logging_and_keys_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands set up logging for their whole process, and read keys from the environment."""
    for name in ("OPENAI_API_KEY", "QUIRE_API_KEY", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    loggers = [logging.getLogger(), logging.getLogger("quire")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture
def made_up() -> Callable[..., Answer]:
    """``made_up(start, first, gaps, tokens)``: an answer that came at these times."""

    def make(
        start_s: float,
        first_s: float,
        gaps_s: list[float],
        num_tokens: int,
        *,
        queued_s: float = -1.0,
        prompt: int = 10,
    ) -> Answer:
        answer = Answer(start_s if queued_s < 0 else queued_s, start_s)
        answer.first_s, answer.chunk_gaps_s = first_s, gaps_s
        answer.last_s = first_s + sum(gaps_s)
        answer.num_prompt_tokens, answer.num_output_tokens = prompt, num_tokens
        answer.texts = ["x"] * num_tokens
        return answer

    return make
