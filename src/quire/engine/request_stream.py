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
        self._reader: asyncio.Future[None] | None = None
        self._take: Callable[[RequestOutput], bool] | None = None
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
            try:
                await self._reader
            finally:
                self._reader = None
        return self._waiting.popleft()

    def abort(self) -> None:
        """Stop generating and free everything the request holds in the engine. Harmless when it has ended."""
        if not self._ended:
            self._abort(self.request)

    def tap(self, take: Callable[[RequestOutput], bool]) -> None:
        """Offer what comes to ``take`` at once, while the reader waits for it; the reader gets what it declines.

        An output in which a continuation ends is always the reader's.
        """
        self._take = take

    def put(self, output: RequestOutput) -> None:
        """Called by the owner when something came."""
        if self._take is not None and self._may_take(output):
            try:
                if self._take(output):
                    return
            except Exception as error:  # the reader's to hear, not of whoever brought the output
                self.fail(error)
                return
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

    def _may_take(self, output: RequestOutput) -> bool:
        """The reader has done with all that came before, and nothing ends here."""
        if self._reader is None or self._reader.done():
            return False
        for completion in output.outputs:  # noqa: SIM110 - asked for every token, mostly of one continuation
            if completion.finish_reason is not None:
                return False
        return True

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
