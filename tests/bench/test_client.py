"""The client against a server that plays streams over real sockets."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from quire.bench.client import Client
from quire.bench.datasets.sample import Sample
from quire.bench.measure import measure
from quire.bench.target import Target, find_target
from quire.core.errors import ConfigError, QuireError

WithServer = Callable[[Callable[[Any], Any]], None]
SAMPLE = Sample("la la la", 4, 3)


def target_of(server: Any, **headers: str) -> Target:
    return find_target(server.url, None, None, headers, True)


def event(text: str, finish: str = "null") -> bytes:
    return f'data: {{"choices": [{{"text": "{text}", "finish_reason": {finish}}}]}}\n\n'.encode()


def test_a_stream(with_server: WithServer) -> None:
    async def scenario(server: Any) -> None:
        target = target_of(server, Authorization="Bearer sesame")
        async with Client(target) as client:
            answer = await client.stream(target.body("words", SAMPLE, {"top_k": 5}), request_id="r-7")
        assert (answer.error, answer.text, answer.num_chunks) == ("", " la la la", 3)
        assert (answer.num_prompt_tokens, answer.num_output_tokens) == (3, 3)
        assert 0 < answer.ttft_s <= answer.latency_s
        assert answer.ttft_s + sum(answer.chunk_gaps_s) == pytest.approx(answer.latency_s)
        (exchange,) = server.exchanges
        assert exchange.path == "/v1/completions"
        assert exchange.headers["authorization"] == "Bearer sesame" and exchange.headers["x-request-id"] == "r-7"
        assert exchange.body == {
            "model": "words",
            "prompt": "la la la",
            "max_tokens": 3,
            "stream": True,
            "stream_options": {"include_usage": True},
            "top_k": 5,
        }

    with_server(scenario)


def test_times_are_those_of_the_stream(with_server: WithServer) -> None:
    """A token that the server keeps back is late by as much; what it sends at once is one piece after the other."""

    async def scenario(server: Any) -> None:
        arrived, released = asyncio.Event(), asyncio.Event()

        async def play(exchange: Any) -> None:
            await exchange.begin()
            await exchange.piece(event("a") + event("b"))
            arrived.set()
            await released.wait()
            await exchange.piece(event("c", '"stop"') + b"data: [DONE]\n\n")
            await exchange.end()

        server.play = play
        loop = asyncio.get_running_loop()
        async with Client(target_of(server)) as client:
            task = asyncio.create_task(client.stream(b"{}"))
            await arrived.wait()
            for _ in range(20):  # let the client read what has come
                await asyncio.sleep(0)
            loop.call_later(0.05, released.set)
            answer = await task
        assert answer.error == "" and answer.num_chunks == 3
        assert answer.chunk_gaps_s[0] < answer.chunk_gaps_s[1] >= 0.04

    with_server(scenario)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, {"error": {"message": "max_tokens is too large."}}, "HTTP status 400: max_tokens is too large."),
        (503, "busy", 'HTTP status 503: "busy"'),
    ],
)
def test_refusals(with_server: WithServer, status: int, body: Any, words: str) -> None:
    async def scenario(server: Any) -> None:
        async def play(exchange: Any) -> None:
            await exchange.json(status, body)

        server.play = play
        async with Client(target_of(server)) as client:
            assert (await client.stream(b"{}")).error == words

    with_server(scenario)


def test_a_server_that_hangs_up(with_server: WithServer) -> None:
    async def scenario(server: Any) -> None:
        async def play(exchange: Any) -> None:
            await exchange.begin()
            await exchange.piece(event("a"))
            exchange.hang_up()

        async def end_early(exchange: Any) -> None:
            await exchange.stream(event("a"))

        async with Client(target_of(server)) as client:
            server.play = play
            assert "the connection broke off" in (await client.stream(b"{}")).error
            server.play = end_early
            assert (await client.stream(b"{}")).error == "the answer broke off before its end"

    with_server(scenario)


def test_what_is_not_a_stream(with_server: WithServer) -> None:
    async def scenario(server: Any) -> None:
        async def play(exchange: Any) -> None:
            await exchange.json(200, {"choices": [{"text": "whole"}]})

        server.play = play
        async with Client(target_of(server)) as client:
            assert "not a stream of completions" in (await client.stream(b"{}")).error

    with_server(scenario)


def test_no_server(with_server: WithServer) -> None:
    async def scenario(server: Any) -> None:
        await server.stop()
        async with Client(target_of(server)) as client:
            assert "Connection refused" in (await client.stream(b"{}")).error
            with pytest.raises(QuireError, match=f"no server to measure at {server.url}: .*Connection refused"):
                await client.models()

    with_server(scenario)


def test_models_and_the_profiler(with_server: WithServer) -> None:
    async def scenario(server: Any) -> None:
        async with Client(target_of(server)) as client:
            served = await client.models()
            assert served is not None and [(m.id, m.root) for m in served] == [("words", "org/words")]
            server.models = {"models": "what?"}
            assert await client.models() is None
            await client.profile("start")
            server.profiler_status = 404
            with pytest.raises(ConfigError, match=r"/stop_profile answered 404: this server has no profiler"):
                await client.profile("stop")
        assert [e.path for e in server.exchanges[-2:]] == ["/start_profile", "/stop_profile"]

    with_server(scenario)


def test_no_more_at_once_than_allowed(with_server: WithServer) -> None:
    async def scenario(server: Any) -> None:
        running, most, two = 0, 0, asyncio.Event()

        async def play(exchange: Any) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            if running == 2:
                two.set()
            await two.wait()
            running -= 1  # the client hears of the end after this, and sends the next only then
            await exchange.stream(event("a", '"stop"'), b"data: [DONE]\n\n")

        server.play = play
        heard = []
        async with Client(target_of(server)) as client:
            run = await measure(client, [b"{}"] * 6, [0.0] * 6, max_concurrency=2, on_answer=heard.append)
        assert most == 2
        assert [a.error for a in run.answers] == [""] * 6 and len(heard) == 6
        queued = [a.client_queue_time_s for a in run.answers]
        assert max(queued[:2]) < min(queued[2:])
        assert run.duration_s >= max(a.latency_s for a in run.answers) and run.cpu_s > 0

    with_server(scenario)


def test_requests_start_when_they_are_due(with_server: WithServer) -> None:
    async def scenario(server: Any) -> None:
        target = target_of(server)
        body = target.body("words", SAMPLE, {})
        async with Client(target) as client:
            run = await measure(client, [body] * 3, [0.0, 0.03, 0.06], request_id_prefix="x-")
        for answer, due in zip(run.answers, [0.0, 0.03, 0.06], strict=True):
            assert answer.start_s - run.start_s >= due
        assert {e.headers["x-request-id"] for e in server.exchanges} == {"x-0", "x-1", "x-2"}

    with_server(scenario)


@pytest.mark.parametrize(
    ("base_url", "backend", "endpoint", "url", "models_url"),
    [
        ("http://h:1", None, None, "http://h:1/v1/completions", "http://h:1/v1/models"),
        ("http://h:1/", "vllm", None, "http://h:1/v1/completions", "http://h:1/v1/models"),
        ("http://h:1/v1", "openai-chat", None, "http://h:1/v1/chat/completions", "http://h:1/v1/models"),
        ("https://h/x", None, "/v3/chat/completions", "https://h/x/v3/chat/completions", "https://h/x/v3/models"),
    ],
)
def test_where_things_are(base_url: str, backend: str | None, endpoint: str | None, url: str, models_url: str) -> None:
    target = find_target(base_url, backend, endpoint, {}, True)
    assert (target.url, target.models_url) == (url, models_url)
    assert target.is_chat == ("chat" in url)
    assert ("messages" in target.body("m", SAMPLE, {}).decode()) == target.is_chat


@pytest.mark.parametrize(
    ("base_url", "backend", "endpoint", "words"),
    [
        ("localhost:8000", None, None, "--base-url localhost:8000"),
        ("http://[::1", None, None, "must look like http://localhost:8000"),
        ("http://h:99999", None, None, "must look like http://localhost:8000"),
        ("http://h", "tgi", None, "--backend tgi: must be one of openai"),
        ("http://h", "openai", "/v1/chat/completions", "must be a path that ends with /completions"),
        ("http://h", "openai-chat", "/v1/completions", "must be a path that ends with /chat/completions"),
        ("http://h", None, "/v1/embeddings", "--endpoint /v1/embeddings"),
    ],
)
def test_what_is_nowhere(base_url: str, backend: str | None, endpoint: str | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        find_target(base_url, backend, endpoint, {}, True)
