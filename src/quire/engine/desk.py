"""Blocking work that is done one piece at a time, off the loop, while a bounded number of others wait."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from quire.core.errors import Overloaded

T = TypeVar("T")


class Desk:
    """One thread and a line before it: what takes a second holds up its own kind only."""

    def __init__(self, what: str, max_waiting: int) -> None:
        self._what = what
        self._max_waiting = max_waiting
        self._num_pieces = 0  # that are worked on, or wait
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"quire-{what}")

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run it there. Raises Overloaded when many wait."""
        if self._num_pieces >= self._max_waiting:
            raise Overloaded(
                f"{self._num_pieces} {self._what} are waiting to be checked: try again later.",
                retry_after_s=float(self._max_waiting),
            )
        self._num_pieces += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
        finally:
            self._num_pieces -= 1

    def close(self) -> None:
        """Drop what waits."""
        self._thread.shutdown(wait=False, cancel_futures=True)
