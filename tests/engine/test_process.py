"""The loop of an engine's process, on an engine that only counts."""

import os
import socket
from typing import Any

import pytest

from quire.core.codec import Decoder, encode
from quire.core.framing import Cutter, framed
from quire.core.messages import Abort, FromEngine
from quire.core.step import StepOutput
from quire.engine.bell import Bell
from quire.engine.connection import Connection
from quire.engine.process import serve


class Endless:
    """Has work for ever. Its owner goes away in the third step."""

    has_work = True

    def __init__(self, owner: socket.socket) -> None:
        self.bell = Bell()
        self.owner = owner
        self.heard: list[Any] = []
        self.answered: list[FromEngine] = []
        self.num_steps = 0

    def handle(self, message: Any) -> list[FromEngine]:
        self.heard.append(message)
        return []

    def step(self) -> StepOutput:
        self.num_steps += 1
        assert self.num_steps <= 3, "nobody is there to compute for"
        if self.num_steps == 3:
            decoder: Decoder[FromEngine] = Decoder(FromEngine)
            self.answered += map(decoder.decode, Cutter().cut(self.owner.recv(1 << 16)))
            self.owner.close()
        return StepOutput(handles=[1], token_ids=[self.num_steps], time_s=0.0)

    def settle(self) -> list[FromEngine]:
        return []


def test_an_engine_at_work_ends_when_its_owner_is_gone() -> None:
    ours, theirs = socket.socketpair()
    engine: Any = Endless(theirs)
    theirs.sendall(framed(encode(Abort([5]))) + framed(b"no message") + framed(encode(Abort([6]))))
    connection = Connection(ours)
    with pytest.raises(EOFError):
        serve(engine, connection, os.getppid())
    connection.close(0)
    assert engine.heard == [Abort([5]), Abort([6])]
    assert [step.output.token_ids for step in engine.answered] == [[1], [2]]
