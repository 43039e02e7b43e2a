"""SIGINT and SIGTERM, the signals that tell a process to stop.

Three ways to take them, in the order of a server's life: as an interrupt, not before something is over, and on a loop.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType

_STOPS = (signal.SIGTERM, signal.SIGINT)


def interrupting() -> AbstractContextManager[None]:
    """Each raises KeyboardInterrupt, so that what was started is put away. For the main thread, as the next one."""
    return _handled(signal.default_int_handler)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """They wait until the end; in other threads than the main one, which nothing interrupts, nothing is done.

    For what must not be left midway: a step of an engine; also an import, which may be inside a callback from C that
    drops the exception, so that the process goes on as if it had not been told.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told: list[int] = []
    try:
        with _handled(lambda number, _: told.append(number)):
            yield
    finally:
        if told:
            signal.raise_signal(told[0])


@contextlib.contextmanager
def heard(stop: Callable[[], object]) -> Iterator[None]:
    """Each calls ``stop`` on the running loop, where that can hear them (in the main thread)."""
    loop = asyncio.get_running_loop()
    numbers: list[signal.Signals] = []
    with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
        for number in _STOPS:
            loop.add_signal_handler(number, stop)
            numbers.append(number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    before = {stop: signal.signal(stop, handler) for stop in _STOPS}
    try:
        yield
    finally:
        for stop, earlier in before.items():
            signal.signal(stop, signal.SIG_DFL if earlier is None else earlier)  # None: of somebody's C code
