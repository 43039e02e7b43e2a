"""What one HTTP request has running in the engine: a stream for each of its prompts.

Law: closed exactly when the answer is over, whatever way that came about, and closing frees everything in the engine.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from quire.core.errors import of_failure
from quire.core.outputs import RequestOutput
from quire.core.step import FinishReason

if TYPE_CHECKING:
    from quire.engine.beam_stream import BeamStream
    from quire.engine.request_stream import RequestStream
    from quire.server.short_way import EventTap, TextTap

    Stream = RequestStream | BeamStream

Event = tuple[int, RequestOutput]
"""The prompt's index, and what is new of its continuations."""


class Generation:
    def __init__(self, on_close: Callable[["Generation"], None], request_id: str) -> None:
        self.request_id = request_id
        self.streams: list[Stream] = []
        self._on_close = on_close
        self._tap: TextTap | EventTap | None = None

    async def finals(self) -> list[RequestOutput]:
        """Wait for every prompt's last output. Raises GenerationFailed or EngineDead."""
        return [await _last(stream) for stream in self.streams]

    async def events(self) -> AsyncIterator[Event]:
        """What is new, as it comes. A slow reader gets merged outputs, never a growing queue.

        Raises what broke a tap.
        """
        if len(self.streams) == 1:
            async for output in self.streams[0]:
                if self._tap is not None and self._tap.error is not None:
                    raise self._tap.error
                yield 0, _sound(output)
            return
        queue: asyncio.Queue[Event | BaseException | None] = asyncio.Queue(maxsize=1)
        pumps = [asyncio.ensure_future(_pump(i, stream, queue)) for i, stream in enumerate(self.streams)]
        try:
            num_running = len(pumps)
            while num_running:
                event = await queue.get()
                if isinstance(event, BaseException):
                    raise event
                if event is None:
                    num_running -= 1
                else:
                    yield event
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    def tap(self, tap: "TextTap | EventTap") -> None:
        """Let ``tap`` take texts the moment they come; only where there is one prompt. See RequestStream.tap."""
        if len(self.streams) == 1:
            self._tap = tap
            self.streams[0].tap(tap)

    def abort(self) -> None:
        """Stop the engine's work; readers still get what there is, and the end."""
        for stream in self.streams:
            stream.abort()

    def close(self) -> None:
        self.abort()
        self._on_close(self)


async def _pump(index: int, stream: "Stream", queue: "asyncio.Queue[Event | BaseException | None]") -> None:
    try:
        async for output in stream:
            await queue.put((index, _sound(output)))
    except Exception as error:
        await queue.put(error)
    else:
        await queue.put(None)


async def _last(stream: "Stream") -> RequestOutput:
    last: RequestOutput | None = None
    async for output in stream:
        last = _sound(output)
    assert last is not None, "a stream ends with an output"
    return last


def _sound(output: RequestOutput) -> RequestOutput:
    """The same output; raises GenerationFailed, or InvalidRequest, if one of its continuations failed."""
    for choice in output.outputs:
        if choice.finish_reason == FinishReason.ERROR:
            raise of_failure(choice.stop_reason)
    return output
