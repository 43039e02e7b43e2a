"""Calls to an engine that are answered: pause and resume, sleep and wake up, forget prefixes, verify.

Lives on the client's side, on its loop. Owns the calls under way, and what the engine last said of its state.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

from quire.core import errors
from quire.core.errors import Asleep, EngineDead, InvalidRequest
from quire.core.messages import (
    AWAKE,
    SLEEP_LEVELS,
    Check,
    Done,
    Pause,
    Reset,
    Resume,
    Sleep,
    ToEngine,
    WakeUp,
)

PauseMode = Literal["abort", "wait", "keep"]
"""What becomes of requests that are there: they end with what they have, are waited for, or go on afterwards."""
PAUSE_MODES: tuple[PauseMode, ...] = ("abort", "wait", "keep")

_RETRY_ASLEEP_S = 10.0


class EngineControl:
    """Orders for one engine. Owned by its client.

    ``send`` raises EngineDead when the engine is down; ``abort_all`` ends every request that is there.
    """

    def __init__(self, send: Callable[[ToEngine], None], abort_all: Callable[[], None]) -> None:
        self._send = send
        self._abort_all = abort_all
        self._calls: dict[int, asyncio.Future[Done]] = {}
        self._numbers = itertools.count(1)
        self._num_going_to_sleep = 0
        self.is_paused = False
        """Whether the engine schedules nothing. Requests are taken, and wait, unless it is asleep."""
        self.sleep_level = AWAKE

    @property
    def is_sleeping(self) -> bool:
        return self.sleep_level != AWAKE

    def check_awake(self) -> None:
        """Raises Asleep for an engine that has given memory back, or is about to."""
        if self.sleep_level > 0 or self._num_going_to_sleep:
            raise Asleep(
                "The engine is asleep and takes no requests: wake it up (POST /wake_up), or try again later.",
                retry_after_s=_RETRY_ASLEEP_S,
            )

    async def pause(self, mode: PauseMode = "abort", *, clear_cache: bool = True) -> None:
        """Schedule nothing until ``resume``; returns when that is so. Requests that come meanwhile wait.

        ``clear_cache``: forget cached prefixes then; not with mode keep. Raises Conflict if ``resume`` comes first.
        """
        check_mode(mode)
        if mode == "abort":
            self._abort_all()
        await self._order(lambda call: Pause(call, drain=mode == "wait", clear=clear_cache and mode != "keep"))

    async def resume(self) -> None:
        """Go on. Raises Conflict while asleep."""
        await self._order(Resume)

    async def sleep(self, level: int = 1, mode: PauseMode = "abort") -> None:
        """Pause and give memory back: 0 none, 1 the KV cache, 2 the weights too; returns when that is done.

        From the call on, requests are refused (level 0: wait). Those kept lose their KV and keep their tokens.
        """
        check_mode(mode)
        if level not in SLEEP_LEVELS:
            raise InvalidRequest(f"level is {level}: it must be 0, 1 or 2.", param="$.level")
        self._num_going_to_sleep += level > 0
        try:
            if mode == "abort":
                self._abort_all()
            await self._order(lambda call: Sleep(call, level, drain=mode == "wait"))
        finally:
            self._num_going_to_sleep -= level > 0

    async def wake_up(self, tags: Sequence[str] = ()) -> None:
        """Take memory again: ``weights``, ``kv_cache``, or without tags all; runs when all of it is there.

        Weights are read anew from the model's files. Raises what loading a model raises, or Conflict.
        """
        await self._order(lambda call: WakeUp(call, list(tags)))

    async def reset_prefix_cache(self, *, reset_running_requests: bool = False) -> bool:
        """Forget every cached prefix; False if running requests hold some, which therefore stay findable.

        ``reset_running_requests``: these let go of theirs, and compute them again.
        """
        return (await self.call(lambda call: Reset(call, reset_running_requests))).num_held_blocks == 0

    async def check(self) -> Done:
        """Have the engine verify its KV accounting; the answer's ``error`` is empty when all is well."""
        return await self.call(Check)

    async def call(self, message: Callable[[int], Any]) -> Done:
        """Send the message that is made for a fresh number, and wait for its answer."""
        number = next(self._numbers)
        waiter: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self._send(message(number))
        self._calls[number] = waiter
        return await waiter

    def settle(self, done: Done) -> None:
        """An answer came."""
        self.is_paused, self.sleep_level = done.is_paused, done.sleep_level
        waiter = self._calls.pop(done.call, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(done)

    def fail_all(self, reason: str) -> None:
        """No more answers will come."""
        for waiter in self._calls.values():
            if not waiter.done():
                waiter.set_exception(EngineDead(reason))
        self._calls.clear()

    async def _order(self, message: Callable[[int], Any]) -> None:
        done = await self.call(message)
        if done.error:
            raise errors.of_kind(done.kind, done.error)


def check_mode(mode: str) -> None:
    """Raise InvalidRequest unless it is one of PAUSE_MODES."""
    if mode not in PAUSE_MODES:
        raise InvalidRequest(f"mode is {mode!r:.80}: it must be one of {', '.join(PAUSE_MODES)}.", param="$.mode")
