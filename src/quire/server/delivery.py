"""What every route that generates ends with: the answer goes to its client, whole or as a stream.

Law: what was begun is closed when the answer is over, whatever way that came about; a client that hangs up ends it.
"""

from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from quire.server.disconnect import while_connected
from quire.server.faces import OPENAI, Face
from quire.server.responses import json_response
from quire.server.service import service_of
from quire.server.streaming import EventStream


class Closable(Protocol):
    def close(self) -> None: ...


B = TypeVar("B", bound=Closable)


async def deliver(
    request: Request,
    begin: Callable[[], Coroutine[Any, Any, B]],
    *,
    whole: Callable[[B], Awaitable[Any]],
    events: Callable[[B], AsyncIterable[bytes]],
    is_streamed: bool,
    request_id: str,
    face: Face = OPENAI,
) -> Response:
    """What ``begin`` begins, answered by ``whole`` or by ``events``. Raises as these do; ClientDisconnect."""
    if is_streamed:
        begun = await while_connected(request.receive, begin())
        return EventStream(
            events(begun),
            begun.close,
            keep_alive_s=service_of(request).config.sse_keep_alive_s,
            request_id=request_id,
            face=face,
        )

    async def answer() -> Any:
        begun = await begin()
        try:
            return await whole(begun)
        finally:
            begun.close()

    return json_response(await while_connected(request.receive, answer()))
