"""What comes of one request, as an async iterator.

Law: at most one output waits to be read. What a slow reader missed is merged into it, so nothing grows but the text
itself, and nothing is lost.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec

from quire.core.outputs import OutputKind, RequestOutput
from quire.core.request import Request
from quire.engine.continuation import Tap


class RequestStream:
    """What comes of one request, as an async iterator. A slow reader finds what it missed merged into one output."""

    def __init__(
        self,
        request: Request,
        kind: OutputKind,
        abort: Callable[[Request], None],
        divert: Callable[[int, Tap | None], None],
    ) -> None:
        """``divert``: as Assembler.tap."""
        self.request = request
        self.prompt_token_ids: list[int] = request.prompt.tolist()
        self._kind = kind
        self._abort = abort
        self._divert = divert
        self._waiting: deque[RequestOutput] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._tap: Tap | None = None
        self._error: Exception | None = None
        self._ended = False

    def __aiter__(self) -> "RequestStream":
        return self

    async def __anext__(self) -> RequestOutput:
        while not self._waiting:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._reader = asyncio.get_running_loop().create_future()
            if self._tap is not None:
                self._divert(self.request.handle, self._tap)
            try:
                await self._reader
            finally:
                self._reader = None
                if self._tap is not None:
                    self._divert(self.request.handle, None)
        return self._waiting.popleft()

    def abort(self) -> None:
        """Stop generating and free everything the request holds in the engine. Harmless when it has ended."""
        if not self._ended:
            self._abort(self.request)

    def tap(self, tap: Tap) -> None:
        """While the reader waits, ``tap`` may take what is only a text, when it comes; the reader gets the rest."""
        self._tap = tap

    def put(self, output: RequestOutput) -> None:
        """Called by the owner when something came."""
        if self._waiting:
            newest = self._waiting.pop()
            output = merge(newest, output) if self._kind is OutputKind.DELTA else output
        self._waiting.append(output)
        self._ended = self._ended or output.finished
        self._wake()

    def fail(self, error: Exception) -> None:
        """Called by the owner when nothing more will come."""
        self._error, self._ended = error, True
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def merge(earlier: RequestOutput, later: RequestOutput) -> RequestOutput:
    """Two deltas of one request as one."""
    merged = {completion.index: completion for completion in earlier.outputs}
    for new in later.outputs:
        old = merged.get(new.index)
        merged[new.index] = (
            new
            if old is None
            else msgspec.structs.replace(
                new,
                text=old.text + new.text,
                token_ids=[*old.token_ids, *new.token_ids],
                logprobs=None if new.logprobs is None else [*(old.logprobs or []), *new.logprobs],
            )
        )
    return msgspec.structs.replace(later, outputs=[merged[index] for index in sorted(merged)])
