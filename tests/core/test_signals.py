"""Signals wait for the end of what must not be left midway, and reach whoever would have had them."""

import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from quire.core import signals

STOPS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def heard() -> Iterator[list[int]]:
    """What reaches the handlers that were there before."""
    told: list[int] = []

    def hear(number: int, _frame: FrameType | None) -> None:
        told.append(number)

    before = {stop: signal.signal(stop, hear) for stop in STOPS}
    yield told
    for stop, handler in before.items():
        signal.signal(stop, handler)


@pytest.mark.parametrize("stop", STOPS)
def test_held_once(heard: list[int], stop: signal.Signals) -> None:
    before = signal.getsignal(stop)
    with signals.held():
        signal.raise_signal(stop)
        signal.raise_signal(stop)
        assert not heard
    assert heard == [stop], "told once, however often it came"
    assert signal.getsignal(stop) is before


def test_held_again_and_again(heard: list[int]) -> None:
    hold = signals.Hold()
    with hold.listening():
        for count in range(1, 4):
            with hold:
                signal.raise_signal(signal.SIGTERM)
                assert len(heard) == count - 1
            assert len(heard) == count
        signal.raise_signal(signal.SIGINT)
        assert heard[-1] == signal.SIGINT, "between two sections at once"
        with hold:
            signal.raise_signal(signal.SIGINT)
        assert len(heard) == 5, "it listens still"


def test_an_interrupt_leaves_at_the_end_of_a_section() -> None:
    hold, done = signals.Hold(), []
    with pytest.raises(KeyboardInterrupt), signals.interrupting(), hold.listening():
        for step in range(3):
            with hold:
                if step == 1:
                    signal.raise_signal(signal.SIGINT)
                done.append(step)
    assert done == [0, 1]
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), signals.interrupting(), hold.listening():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_one_within_another(heard: list[int]) -> None:
    """An order to the engine between two steps."""
    hold = signals.Hold()
    with hold.listening():
        with signals.held():
            signal.raise_signal(signal.SIGINT)
            assert not heard
        assert heard == [signal.SIGINT]
        with hold:
            with signals.held():
                signal.raise_signal(signal.SIGTERM)
            assert heard == [signal.SIGINT]
        assert heard == [signal.SIGINT, signal.SIGTERM]


def test_nothing_listens_where_nobody_said_so(heard: list[int]) -> None:
    with signals.Hold():
        signal.raise_signal(signal.SIGINT)
        assert heard == [signal.SIGINT]
