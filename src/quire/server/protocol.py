"""HTTP/1.1 on h11, with a deadline that uvicorn does not have: a client must send its request's head in time.

uvicorn closes idle connections between requests, but one that never completes its headers would be held for ever.
"""

import asyncio
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_TIMEOUT = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b"
)
_BODY = (
    b'{"error":{"message":"The request\'s headers did not arrive in time.",'
    b'"type":"invalid_request_error","param":null,"code":"request_timeout"}}'
)


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
            self.transport.write(_TIMEOUT % (len(_BODY), _BODY))
            self.transport.close()


def timed(header_timeout_s: float) -> type[TimedProtocol]:
    """The protocol class that uvicorn makes each connection of."""
    return type("TimedProtocol", (TimedProtocol,), {"header_timeout_s": header_timeout_s})
