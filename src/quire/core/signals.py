"""SIGINT and SIGTERM, the signals that tell a process to stop.

Three ways to take them, in the order of a server's life: as an interrupt, not before something is over, and on a loop.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import FrameType

_STOPS = (signal.SIGTERM, signal.SIGINT)
_Handler = Callable[[int, FrameType | None], object] | int
"""As the signal module takes it: a function, or a number of its own."""


def interrupting() -> AbstractContextManager[object]:
    """Each raises KeyboardInterrupt, so that what was started is put away. For the main thread, as the next one."""
    return _handled(dict.fromkeys(_STOPS, signal.default_int_handler))


class Hold:
    """They wait until the end of ``with hold:``, wherever it listens. Between two such sections they act as ever.

    For what must not be left midway, again and again: a section costs next to nothing, listening a few system calls.
    """

    def __init__(self) -> None:
        self._is_on = False
        self._told: list[int] = []
        self._earlier: Mapping[signal.Signals, _Handler] = {}

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """In other threads than the main one, which nothing interrupts, nothing is done."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with _handled(dict.fromkeys(_STOPS, self._hear)) as self._earlier:
            yield

    def __enter__(self) -> None:
        self._is_on = True

    def __exit__(self, *_: object) -> None:
        self._is_on = False
        if self._told:
            first = self._told[0]  # the others would only interrupt what it sets off
            self._told.clear()
            self._pass_on(first)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if self._is_on:
            self._told.append(number)
        else:
            self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        """To whoever would have heard it."""
        with _handled(self._earlier):
            signal.raise_signal(number)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """They wait until the end, once.

    For what must not be left midway: an order to an engine; also an import, which may be inside a callback from C that
    drops the exception, so that the process goes on as if it had not been told.
    """
    hold = Hold()
    with hold.listening(), hold:
        yield


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
def _handled(handlers: Mapping[signal.Signals, _Handler]) -> Iterator[Mapping[signal.Signals, _Handler]]:
    """Let these have the signals; gives who had them before, and has them again at the end."""
    before: dict[signal.Signals, _Handler] = {}
    try:
        for stop, handler in handlers.items():
            before[stop] = signal.signal(stop, handler) or signal.SIG_DFL  # None: of somebody's C code
        yield before
    finally:
        for stop, earlier in before.items():
            signal.signal(stop, earlier)
