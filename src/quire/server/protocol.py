"""HTTP/1.1 on h11, with a deadline that uvicorn does not have: a client must send its request's head in time.

uvicorn closes idle connections between requests, but one that never completes its headers would be held for ever. What
is refused here, before there is a request, is answered in the shape of every other error.
"""

import asyncio
from http import HTTPStatus
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from quire.core.errors import InvalidRequest, QuireError, RequestTimeout
from quire.server.faces import OPENAI, encode


class TimedProtocol(H11Protocol):
    """One connection. Subclassed with ``header_timeout_s`` by ``timed``."""

    header_timeout_s: ClassVar[float]
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

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
        """Answer, unless another answer is on its way, and close."""
        if self.cycle is None or self.cycle.response_complete:
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
