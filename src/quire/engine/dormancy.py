"""Stops an engine and starts it again: pause, resume, sleep, wake up.

Laws: while paused nothing is scheduled, and what waits or ran goes on later with the same tokens. Asleep is paused, and
more: no sequence holds KV, no prefix is cached, and the memory is the system's. An order to drain is carried out when
those have ended that were there when it came; who arrives meanwhile is held back.
"""

from typing import NamedTuple

from quire.core.errors import Conflict, InvalidRequest, QuireError
from quire.core.messages import AWAKE, SLEEP_LEVELS, WAKE_TAGS, Order, Pause, Resume, Sleep, WakeUp
from quire.core.request import Request
from quire.core.step import Finished, FinishReason
from quire.engine.arrivals import Arrivals
from quire.engine.executor.executor import Executor, Part
from quire.scheduling.scheduler import Scheduler

_PARTS: tuple[Part, ...] = ("weights", "kv_cache")


class Outcome(NamedTuple):
    """What became of an order."""

    call: int
    error: QuireError | None = None


class Dormancy:
    """One engine's state of rest. Owned by the Engine; sees every arrival, so that it can hold it back."""

    def __init__(self, scheduler: Scheduler, arrivals: Arrivals, executor: Executor) -> None:
        self._scheduler = scheduler
        self._arrivals = arrivals
        self._executor = executor
        self.is_paused = False
        self.sleep_level = AWAKE
        self._released: list[Part] = []
        self._pending: list[Pause | Sleep] = []  # these wait for sequences to end
        self._held: list[Request] = []  # arrived while orders were pending

    def add(self, request: Request) -> None:
        """Put a request on its way, or hold it back."""
        if self._pending:
            self._held.append(request)
        else:
            self._arrivals.add(request)

    def abort(self, handles: list[int]) -> list[Finished]:
        """End sequences of requests that are held back, and thereby the requests."""
        wanted = set(handles)
        ended = [r for r in self._held if wanted.intersection(range(r.handle, r.handle + r.params.n))]
        self._held = [request for request in self._held if request not in ended]
        return [Finished(r.handle + i, FinishReason.ABORT) for r in ended for i in range(r.params.n)]

    def carry_out(self, order: Order) -> list[Outcome]:
        """What became of the order, if that is known now, and of those that it decided."""
        try:
            match order:
                case Pause() | Sleep():
                    if isinstance(order, Sleep) and order.level not in SLEEP_LEVELS:
                        raise InvalidRequest(f"level is {order.level}: it must be 0, 1 or 2.", param="$.level")
                    self._pending.append(order)
                    return self.settle()
                case Resume():
                    if self._released:
                        raise Conflict("The engine is asleep, not only paused: wake it up instead (/wake_up).")
                    return [*self._start(), Outcome(order.call)]
                case WakeUp():
                    return [*self._wake(order.tags), Outcome(order.call)]
        except QuireError as error:
            return [Outcome(order.call, error)]

    @property
    def is_settled(self) -> bool:
        """Whether no order is pending."""
        return not self._pending

    def settle(self) -> list[Outcome]:
        """Carry out the orders that are pending, if nothing has to be waited for any more."""
        if not self._pending:
            return []
        has_work = self._scheduler.has_work or len(self._arrivals) > 0
        if has_work and not self.is_paused and all(order.drain for order in self._pending):
            return []
        orders, self._pending = self._pending, []
        self.is_paused = True
        self._take_held()
        return [self._stop(order) for order in orders]

    def _stop(self, order: Pause | Sleep) -> Outcome:
        if isinstance(order, Pause):
            if order.clear:
                self._scheduler.reset_prefix_cache()
            return Outcome(order.call)
        self.sleep_level = max(self.sleep_level, order.level)
        if order.level > 0:
            self._scheduler.reset_prefix_cache(preempt=True)
            for part in _PARTS if order.level > 1 else _PARTS[1:]:
                if part not in self._released:
                    self._executor.release(part)
                    self._released.append(part)
        return Outcome(order.call)

    def _wake(self, tags: list[str]) -> list[Outcome]:
        for tag in tags:
            if tag not in WAKE_TAGS:
                raise InvalidRequest(f"tags holds {tag!r:.80}: it may hold {', '.join(WAKE_TAGS)}.", param="$.tags")
        left = [part for part in self._released if tags and part not in tags]
        if left and "scheduling" in tags:
            raise Conflict(f"Scheduling cannot go on while {' and '.join(left)} are asleep: wake them too.")
        for part in _PARTS:
            if part in self._released and part not in left:
                self._executor.restore(part)
                self._released.remove(part)
        sleeps = self.sleep_level != AWAKE or any(isinstance(order, Sleep) for order in self._pending)
        return self._start() if sleeps and not left else []

    def _start(self) -> list[Outcome]:
        """Run. Orders to stop that were pending are off."""
        called_off = [
            Outcome(order.call, Conflict("The engine was told to go on before it came to rest."))
            for order in self._pending
        ]
        self._pending = []
        self.is_paused, self.sleep_level = False, AWAKE
        self._take_held()
        return called_off

    def _take_held(self) -> None:
        held, self._held = self._held, []
        for request in held:
            self._arrivals.add(request)
