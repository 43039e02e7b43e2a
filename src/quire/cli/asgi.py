"""Calls an ASGI application without a network: one request in, its answer out."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
App = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


class Answer:
    """What came back: the status, the headers in small letters, the body so far."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()


async def call(
    app: App,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    headers: dict[str, str] | None = None,
    on_piece: Callable[[Answer, bytes], None] | None = None,
) -> Answer:
    """Send a request; ``on_piece`` hears each piece of the body instead of its being kept.

    Cancelling the call is, to the application, a client that hangs up.
    """
    answer = Answer()
    parts = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        for part in parts:
            return part
        await asyncio.Event().wait()  # the client stays until the call is cancelled
        raise AssertionError("unreachable")

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {
                name.decode("latin-1").lower(): value.decode("latin-1") for name, value in message["headers"]
            }
        elif message["type"] == "http.response.body":
            piece = message.get("body", b"")
            if on_piece is None:
                answer.body += piece
            elif piece:
                on_piece(answer, piece)

    await app(_scope(method, path, {"content-type": "application/json", **(headers or {})}, len(body)), receive, send)
    return answer


def _scope(method: str, path: str, headers: dict[str, str], length: int) -> MutableMapping[str, Any]:
    lines = {"host": "localhost", "content-length": str(length), **headers}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in lines.items()],
        "client": ("127.0.0.1", 0),
        "server": ("localhost", 80),
        "state": {},
    }
