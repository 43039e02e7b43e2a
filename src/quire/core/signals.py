"""SIGINT and SIGTERM, the signals that tell a process to stop.

Three ways to take them, in the order of a server's life: as an interrupt, not before something is over, and on a loop.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

_STOPS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def interrupting() -> Iterator[None]:
    """Each raises KeyboardInterrupt, so that what was started is put away. For the main thread, as the next one."""
    before = {stop: signal.signal(stop, signal.default_int_handler) for stop in _STOPS}
    try:
        yield
    finally:
        _handle(before)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """They wait until the end.

    An import must not be interrupted: it may be inside a callback from C, which drops the exception, and the process
    goes on as if it had not been told.
    """
    told: list[int] = []
    before = {stop: signal.signal(stop, lambda number, _: told.append(number)) for stop in _STOPS}
    try:
        yield
    finally:
        _handle(before)
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


def _handle(handlers: "dict[signal.Signals, signal._HANDLER]") -> None:
    for stop, handler in handlers.items():
        signal.signal(stop, handler)
