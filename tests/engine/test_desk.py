"""A desk: one piece of work at a time, few waiting, the others turned away."""

import asyncio
import threading

import pytest

from quire.core.errors import Overloaded
from quire.engine.desk import Desk


def test_few_wait_and_others_are_turned_away() -> None:
    async def work() -> None:
        desk, may_go = Desk("grammars", 2), threading.Event()
        order: list[int] = []

        def note(number: int) -> int:
            assert may_go.wait(10)
            order.append(number)
            return number

        pieces = [asyncio.ensure_future(desk.run(note, number)) for number in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="2 grammars are waiting"):
            await desk.run(note, 2)
        may_go.set()
        assert await asyncio.gather(*pieces) == [0, 1] == order
        assert await desk.run(note, 3) == 3
        desk.close()

    asyncio.run(work())


def test_what_fails_leaves_its_place() -> None:
    async def work() -> None:
        desk = Desk("grammars", 1)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await desk.run(lambda: 1 // 0)
        desk.close()

    asyncio.run(work())
