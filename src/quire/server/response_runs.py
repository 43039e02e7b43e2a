"""Responses being made: waited for, streamed, or in the background, where whoever comes later may follow them.

Law: a response that is stored is stored before its last event is told, so that it can be continued at once.
"""

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable

from quire.core.errors import QuireError
from quire.server.answers.responses import ResponseAnswer
from quire.server.exchange import Exchange, Piece
from quire.server.faces import RESPONSES, encode
from quire.server.response_store import Kept, NamedItem, ResponseStore
from quire.server.responses import InternalError
from quire.server.schema.response_input import Item
from quire.server.schema.responses import ResponseObject
from quire.server.service import Service
from quire.server.short_way import ShortWay
from quire.server.streaming import EventStream

log = logging.getLogger("quire.server")


class Run:
    """One response being made of one exchange. ``own``: the input's items.

    To be read once: ``whole``, or as a stream's events, by iterating or by ``frames``.
    """

    def __init__(
        self,
        answer: ResponseAnswer,
        exchange: Exchange,
        own: list[Item],
        *,
        store: ResponseStore | None,
        is_stepwise: bool,
        request_id: str,
    ) -> None:
        self._answer = answer
        self._exchange = exchange
        self._own = own
        self._store = store
        self._is_stepwise = is_stepwise
        self._request_id = request_id

    @property
    def response(self) -> ResponseObject:
        return self._answer.response

    @property
    def input(self) -> tuple[NamedItem, ...]:
        """The request's own items."""
        return tuple((item["id"], encode(item)) for item in self._own)

    async def whole(self) -> ResponseObject:
        """Raises GenerationFailed or EngineDead; nothing is stored then."""
        async for pieces in self._steps():
            self._step(pieces)
        self._answer.end(self._exchange.usage)
        self._keep(None)
        return self.response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for frames in self.frames():
            yield b"".join(frames)

    def tap(self, way: ShortWay) -> None:
        """See Tappable.tap."""
        self._exchange.tap(way, lambda piece: b"".join(self._step([piece])))

    async def frames(self, events: list[bytes] | None = None) -> AsyncIterator[list[bytes]]:
        """A stream's events, those of one step at a time; whatever goes wrong is told by the last.

        ``events``: to be stored with the response, where they are gathered.
        """
        self._answer.begin()
        yield self._answer.take()
        try:
            async for pieces in self._steps():
                yield self._step(pieces)
            self._answer.end(self._exchange.usage)
        except QuireError as error:
            self._answer.fail(error, self._exchange.usage)
        except Exception:
            log.exception("%s: a response failed", self._request_id)
            self._answer.fail(InternalError(self._request_id), self._exchange.usage)
        last = self._answer.take()
        self._keep(None if events is None else (*events, *last))
        yield last

    def cancel(self) -> None:
        """End it with what there is."""
        self._answer.is_cancelled = True
        self._exchange.abort()

    def close(self) -> None:
        self._exchange.close()

    def _step(self, pieces: list[Piece]) -> list[bytes]:
        for piece in pieces:
            self._answer.read(piece)
        return self._answer.take()

    async def _steps(self) -> AsyncIterator[list[Piece]]:
        if self._is_stepwise:
            async for pieces in self._exchange.steps():
                yield pieces
        else:
            self._answer.start()
            _, (answered,) = await self._exchange.finals()
            yield [Piece(answered.choice, answered.events, answered.finish_reason, answered.cuts_call)]

    def _keep(self, events: tuple[bytes, ...] | None) -> None:
        if self._store is None:
            return
        response = self.response
        kept = Kept(
            answer=encode(response),
            input=self.input,
            output=tuple((item.id, encode(item)) for item in response.output),
            previous_id=response.previous_response_id,
            is_background=response.background,
            events=events,
        )
        self._store.keep(response.id, kept)


class BackgroundRun:
    """A run that nobody has to wait for. Lives in the store's ``running`` until it is over.

    ``has_events``: its stream is kept, and may be followed from any event on.
    """

    def __init__(self, run: Run, store: ResponseStore, *, has_events: bool) -> None:
        self._run = run
        self._store = store
        self._events: list[bytes] | None = [] if has_events else None
        self._news = asyncio.Event()
        self._is_over = False
        store.running[run.response.id] = self
        self._task = asyncio.create_task(self._work())

    @property
    def response(self) -> ResponseObject:
        return self._run.response

    @property
    def input(self) -> tuple[NamedItem, ...]:
        return self._run.input

    @property
    def has_events(self) -> bool:
        return self._events is not None

    async def follow(self, after: int = -1) -> AsyncIterator[bytes]:
        """The events behind that number, then those that come."""
        assert self._events is not None
        position = after + 1
        while True:
            news = self._news
            if position < len(self._events):
                yield b"".join(self._events[position:])
                position = len(self._events)
            elif self._is_over:
                return
            else:
                await news.wait()

    async def cancel(self) -> ResponseObject:
        """End it with what there is; returns the response at its end."""
        self._run.cancel()
        await asyncio.shield(self._task)
        return self.response

    async def _work(self) -> None:
        try:
            async for frames in self._run.frames(self._events):
                if self._events is not None:
                    self._events += frames
                self._tell()
        finally:
            self._is_over = True
            self._run.close()
            del self._store.running[self.response.id]
            self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


def event_stream(
    service: Service, events: AsyncIterable[bytes], close: Callable[[], None], request_id: str
) -> EventStream:
    """The HTTP response of a stream."""
    return EventStream(
        events, close, keep_alive_s=service.config.sse_keep_alive_s, request_id=request_id, face=RESPONSES
    )
