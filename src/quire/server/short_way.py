"""The short way of streams: from a token's text to the client's connection, past tasks, middleware and h11.

A token's cost is what it touches, since the engine's steps leave nothing in the caches: one object here, one there.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from quire.server.faces import encode

SHORT_WAY = "quire.short_way"
"""The ASGI extension: a ShortWay."""


class ShortWay:
    """To the body of one response, in chunks as h11 would make them. Used once the response has begun."""

    __slots__ = ("is_open", "send", "written_at")

    def __init__(self, transport: asyncio.Transport, *, is_open: bool) -> None:
        self.send = transport.write
        """For whole chunks."""
        self.is_open = is_open
        """Not to a client that is slow or gone: the long way knows what to do then."""
        self.written_at = 0.0
        """The last time, in time.monotonic()'s seconds."""

    def write(self, piece: bytes) -> None:
        """Only while it is open."""
        self.written_at = time.monotonic()
        self.send(b"%x\r\n%b\r\n" % (len(piece), piece))


class TextTap:
    """Takes the text of a reply of which nothing else is to be told. See ``quire.engine.continuation.Tap``.

    ``around``: what its events have before and behind a text, as JSON.
    """

    __slots__ = ("_chunk", "_size", "_way", "error", "num_tokens")

    def __init__(self, way: ShortWay, around: tuple[bytes, bytes]) -> None:
        self._way = way
        self._size = sum(map(len, around))
        before, behind = (part.replace(b"%", b"%%") for part in around)
        self._chunk = b"%%x\r\n%b%%b%b\r\n" % (before, behind)
        self.error: Exception | None = None
        """What broke it: whoever reads what comes next is to hear of it."""
        self.num_tokens = 0
        """That were taken."""

    def take(self, text: str, token_ids: Sequence[int]) -> bool:
        way = self._way
        if not way.is_open or self.error is not None:
            return False
        try:
            if text:
                told = encode(text)
                way.written_at = time.monotonic()
                way.send(self._chunk % (self._size + len(told), told))
        except Exception as error:
            self.error = error
            return False
        self.num_tokens += len(token_ids)
        return True


class EventTap:
    """Takes the text of any other reply. ``events_of`` makes of it and its tokens what is to be written."""

    def __init__(self, way: ShortWay, events_of: Callable[[str, Sequence[int]], bytes]) -> None:
        self._way = way
        self._events_of = events_of
        self.error: Exception | None = None
        """As a TextTap's."""

    def take(self, text: str, token_ids: Sequence[int]) -> bool:
        if not self._way.is_open or self.error is not None:
            return False
        try:
            events = self._events_of(text, token_ids)
            if events:
                self._way.write(events)
        except Exception as error:
            self.error = error
            return False
        return True
