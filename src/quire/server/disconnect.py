"""Run something for as long as the client is there.

Law: when this returns or raises, the work is over: finished, or cancelled and unwound.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

T = TypeVar("T")


async def while_connected(
    receive: Receive,
    work: Coroutine[Any, Any, T],
    beat: Callable[[], Awaitable[float]] | None = None,
    first_beat_s: float | None = None,
) -> T:
    """The work's result; raises ClientDisconnect, with the work cancelled, as soon as the client hangs up.

    ``beat`` is called after ``first_beat_s`` and from then on after the seconds that it returns. The request's body
    must have been read: what else the client sends is passed over.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hangs_up(receive))
    wait_s = first_beat_s
    try:
        while True:
            await asyncio.wait((task, gone), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if gone.done():
                raise ClientDisconnect
            if beat is not None:
                wait_s = await beat()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _hangs_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
