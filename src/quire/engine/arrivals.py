"""The way of requests to the scheduler: at once, or when their grammar is compiled.

Owns those that wait for that, and the bell that rings when one is done, so that a loop which sleeps wakes up. Law: a
request leaves once, to the scheduler or with an end for each of its sequences; those of its sequences that were aborted
meanwhile have ended before.
"""

from collections import deque
from collections.abc import Iterable

from quire.core.request import Request
from quire.core.step import Finished, FinishReason
from quire.engine.bell import Bell
from quire.engine.grammars import CompiledGrammars
from quire.scheduling.scheduler import Scheduler


class Arrivals:
    """One engine's new requests. Lives on its loop. Without ``grammars`` there must be no request with one."""

    def __init__(self, scheduler: Scheduler, grammars: CompiledGrammars | None) -> None:
        self.bell = Bell()
        self._scheduler = scheduler
        self._grammars = grammars
        self._requests: dict[int, Request] = {}
        """Those that wait, by handle."""
        self._live: set[int] = set()
        """Handles of all their sequences that have not been aborted."""
        self._done: deque[tuple[int, str | None]] = deque()
        """(handle, error), as the thread that compiles says; each request once."""

    def __len__(self) -> int:
        """Sequences that wait for a grammar."""
        return len(self._live)

    @property
    def has_ready(self) -> bool:
        """Whether ``let_in`` would do something."""
        return bool(self._done)

    def add(self, request: Request) -> None:
        """Take in a request, now or, if its grammar is not compiled yet, by a later ``let_in``."""
        if request.grammar is None:
            self._scheduler.add(request)
            return
        assert self._grammars is not None, "a grammar, and nobody who compiles"
        if request.grammar in self._grammars:
            self._scheduler.add(request)
            return
        handle = request.handle
        self._requests[handle] = request
        self._live.update(_handles(request))

        def done(error: str | None) -> None:
            self._done.append((handle, error))
            self.bell.ring()

        self._grammars.compile(request.grammar, done)

    def let_in(self) -> list[Finished]:
        """Hand on the requests whose grammars are compiled. Returns the ends of those whose cannot be."""
        finished = []
        while self._done:
            handle, error = self._done.popleft()
            request = self._requests.pop(handle)
            live = [handle for handle in _handles(request) if handle in self._live]
            self._live.difference_update(live)
            if error is not None:
                finished += [Finished(handle, FinishReason.ERROR, error=error) for handle in live]
            elif live:
                self._scheduler.add(request)
                self._scheduler.abort(set(_handles(request)).difference(live))  # whose ends have been told
        return finished

    def abort(self, handles: Iterable[int]) -> list[Finished]:
        """End these sequences now; handles of others are passed over."""
        waiting = self._live.intersection(handles)
        self._live -= waiting
        return [Finished(handle, FinishReason.ABORT) for handle in sorted(waiting)]


def _handles(request: Request) -> range:
    return range(request.handle, request.handle + request.params.n)
