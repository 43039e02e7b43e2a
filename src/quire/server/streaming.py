"""Streams: the frames of OpenAI's events, and the response that sends any face's events one step at a time.

The constant beginning of an answer's chunks is encoded once; a token costs one small struct's encoding and a join.
Law: a stream that has begun ends as its face's streams do, after an error event if something failed; a client that
hangs up ends the generation at once, even before its first token.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from quire.core.errors import QuireError
from quire.server.disconnect import while_connected
from quire.server.faces import OPENAI, Face, encode
from quire.server.responses import InternalError
from quire.server.schema.common import Usage
from quire.server.short_way import SHORT_WAY, ShortWay

log = logging.getLogger("quire.server")

STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
_HOLE = "\0"
"""Stands for a text; nothing behind it in an event contains it."""


class Frames:
    """Encodes the chunks of one answer.

    ``has_usage``: chunks without usage say ``"usage": null``, as OpenAI's do when a last chunk will tell it. ``tier``:
    the service tier, where it was asked for.
    """

    def __init__(
        self,
        *,
        id: str,
        object: str,
        created: int,
        model: str,
        fingerprint: str,
        has_usage: bool,
        tier: str | UnsetType = UNSET,
    ) -> None:
        constant = {"id": id, "object": object, "created": created, "model": model, "system_fingerprint": fingerprint}
        if tier is not UNSET:
            constant["service_tier"] = tier
        self._head = b"data: " + msgspec.json.encode(constant)[:-1] + b',"choices":'
        self._tail = b',"usage":null}\n\n' if has_usage else b"}\n\n"

    def chunk(self, choices: list[Any], usage: Usage | None = None, extra: Mapping[str, Any] | None = None) -> bytes:
        """One event; ``extra``: further fields of this one."""
        tail = self._tail if usage is None else b',"usage":' + encode(usage) + b"}\n\n"
        if extra:
            tail = b"," + encode(extra)[1:-1] + tail
        return self._head + encode(choices) + tail

    def around(self, choice_of: Callable[[str], Any]) -> tuple[bytes, bytes]:
        """What stands before and behind a text, as JSON, in the event of the choice that is made of it."""
        before, _, behind = self.chunk([choice_of(_HOLE)]).rpartition(encode(_HOLE))
        return before, behind


@runtime_checkable
class Tappable(Protocol):
    """Events that can also be had the moment they come about."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def tap(self, way: ShortWay) -> None:
        """Send events by ``way`` while it is open and the iterator is waited on, which yields the others."""
        ...


class EventStream(Response):
    """Sends ``events`` as they come; ``close`` is called when the stream is over, however it ended."""

    def __init__(
        self,
        events: AsyncIterable[bytes],
        close: Callable[[], None],
        *,
        keep_alive_s: float,
        request_id: str,
        face: Face = OPENAI,
    ) -> None:
        super().__init__(None, 200, STREAM_HEADERS, media_type=face.stream_type)
        self._face = face
        self.raw_headers = [header for header in self.raw_headers if header[0] != b"content-length"]
        self._events = events
        self._close = close
        self._keep_alive_s = keep_alive_s
        self._sent_at = time.monotonic()
        self._request_id = request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        way: ShortWay | None = scope.get("extensions", {}).get(SHORT_WAY)

        async def beat() -> float:
            """After a silence, a comment: proxies close connections that say nothing."""
            silence = time.monotonic() - max(self._sent_at, way.written_at if way else 0.0)
            if silence < self._keep_alive_s:
                return self._keep_alive_s - silence
            await self._send(send, self._face.keep_alive)
            return self._keep_alive_s

        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if self._keep_alive_s and self._face.keep_alive:
                await while_connected(receive, self._send_events(way, send), beat, self._keep_alive_s)
            else:
                await while_connected(receive, self._send_events(way, send))
        except ClientDisconnect:
            log.debug("%s: the client hung up", self._request_id)
        finally:
            self._close()

    async def _send_events(self, way: ShortWay | None, send: Send) -> None:
        last = self._face.end
        if way is not None and isinstance(self._events, Tappable):
            self._events.tap(way)
        try:
            async for event in self._events:
                if event:
                    await self._send(send, event)
        except asyncio.CancelledError:
            raise
        except QuireError as error:
            last = self._failure(error)
        except Exception:
            log.exception("%s: a stream failed", self._request_id)
            last = self._failure(InternalError(self._request_id))
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _send(self, send: Send, event: bytes) -> None:
        self._sent_at = time.monotonic()
        await send({"type": "http.response.body", "body": event, "more_body": True})

    def _failure(self, error: QuireError) -> bytes:
        face = self._face
        return face.frame(encode(face.error_body(error))) + face.end
