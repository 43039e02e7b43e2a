"""HTTP/1.1 on h11, with two things that uvicorn does not have.

A deadline: a client must send its request's head in time. uvicorn closes idle connections between requests, but one
that never completes its headers would be held for ever. What is refused here, before there is a request, is answered in
the shape of every other error.

A short way for streams (``short_way``): once a response has begun, pieces of its body can be written to the connection
at once, past the middleware and h11, which would do nothing to them, and without waking a task for each.
"""

import asyncio
from http import HTTPStatus
from typing import Any, ClassVar

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from quire.core.errors import InvalidRequest, QuireError, RequestTimeout
from quire.server.faces import OPENAI, encode
from quire.server.short_way import SHORT_WAY, ShortWay


class TimedProtocol(H11Protocol):
    """One connection. Subclassed with ``header_timeout_s`` by ``timed``."""

    header_timeout_s: ClassVar[float]
    _deadline: asyncio.TimerHandle | None = None
    _short_way: ShortWay | None = None
    """Of the newest request; those before it have their answers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._app = self.app
        self.app = self._with_short_way

    async def _with_short_way(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["http_version"] == "1.1" and scope["method"] != "HEAD":  # else it is not sent in chunks
            self._short_way = ShortWay(self.transport, is_open=not self.flow.write_paused)
            scope["extensions"] = {SHORT_WAY: self._short_way}
        await self._app(scope, receive, send)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)
        self._open_short_way(False)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._open_short_way(False)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._open_short_way(True)

    def _open_short_way(self, is_open: bool) -> None:
        if self._short_way is not None:
            self._short_way.is_open = is_open

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what h11 cannot read, which includes headers that do not end within the limit."""
        self._refuse(
            InvalidRequest(
                "The request is not valid HTTP/1.1, or its line and headers are longer than the server reads "
                "(--max-header-bytes)."
            )
        )

    def _watch(self) -> None:
        """The clock runs while a request's head is awaited, and is not set back by what arrives of it."""
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._forget()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.header_timeout_s, self._expire)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        self._deadline = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._refuse(RequestTimeout(f"The request's headers did not arrive within {self.header_timeout_s:g} s."))

    def _refuse(self, error: QuireError) -> None:
        """Answer, unless the request has an answer or one is on its way, and close."""
        cycle = self.cycle
        if cycle is None or not cycle.response_started or (cycle.response_complete and not cycle.more_body):
            if cycle is not None:
                cycle.disconnected = True  # what the application may still say to half a request goes nowhere
            body = encode(OPENAI.error_body(error))
            head = (
                f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()


def timed(header_timeout_s: float) -> type[TimedProtocol]:
    """The protocol class that uvicorn makes each connection of."""
    return type("TimedProtocol", (TimedProtocol,), {"header_timeout_s": header_timeout_s})
