"""What comes of one request, as an async iterator.

Law: at most one output waits to be read. What a slow reader missed is merged into it, so nothing grows but the text
itself, and nothing is lost.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec

from quire.core.outputs import RequestOutput
from quire.core.request import Request
from quire.engine.assembler import OutputKind


class RequestStream:
    """What comes of one request, as an async iterator. A slow reader finds what it missed merged into one output."""

    def __init__(self, request: Request, kind: OutputKind, abort: Callable[[Request], None]) -> None:
        self.request = request
        self.prompt_token_ids: list[int] = request.prompt.tolist()
        self._kind = kind
        self._abort = abort
        self._waiting: deque[RequestOutput] = deque()
        self._arrived = asyncio.Event()
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
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    def abort(self) -> None:
        """Stop generating and free everything the request holds in the engine. Harmless when it has ended."""
        if not self._ended:
            self._abort(self.request)

    def put(self, output: RequestOutput) -> None:
        """Called by the owner when something came."""
        if self._waiting:
            newest = self._waiting.pop()
            output = merge(newest, output) if self._kind is OutputKind.DELTA else output
        self._waiting.append(output)
        self._ended = self._ended or output.finished
        self._arrived.set()

    def fail(self, error: Exception) -> None:
        """Called by the owner when nothing more will come."""
        self._error, self._ended = error, True
        self._arrived.set()


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
