"""Messages go both ways whole and in order, whatever the other side does."""

import socket
from collections.abc import Iterator

import pytest

from quire.core.framing import Cutter, framed
from quire.engine.connection import Connection

LARGE = bytes(range(256)) * (1 << 14)  # more than a socket holds


@pytest.fixture
def ends() -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    connection = Connection(ours)
    theirs.settimeout(30)
    yield connection, theirs
    theirs.close()
    connection.close(0)


def heard(end: socket.socket, num: int, connection: Connection | None = None) -> list[bytes]:
    """The next messages at the other end, while ``connection`` pushes."""
    cutter, messages = Cutter(), []
    while len(messages) < num:
        messages += [bytes(message) for message in cutter.cut(end.recv(1 << 20))]
        if connection is not None:
            connection.push()
    return messages


def test_messages_arrive_one_by_one_and_in_order(ends: tuple[Connection, socket.socket]) -> None:
    connection, other = ends
    assert connection.receive() is None
    other.sendall(framed(b"one") + framed(b"") + framed(b"three")[:-1])
    assert [connection.receive(), connection.receive(), connection.receive()] == [b"one", b"", None]
    other.sendall(b"e")
    assert connection.receive() == b"three"


def test_nobody_waits_for_a_slow_reader(ends: tuple[Connection, socket.socket]) -> None:
    connection, other = ends
    idle = connection.events
    for message in (b"one", LARGE, b"three"):
        connection.send(message)
    assert connection.events != idle, "what waits wants to be sent"
    assert heard(other, 3, connection) == [b"one", LARGE, b"three"]
    assert connection.events == idle


def test_what_arrived_is_read_before_the_end(ends: tuple[Connection, socket.socket]) -> None:
    connection, other = ends
    other.sendall(framed(b"one") + framed(b"two") + framed(b"three")[:-1])
    other.close()
    assert [connection.receive(), connection.receive()] == [b"one", b"two"]
    for _ in range(2):
        with pytest.raises(EOFError):
            connection.receive()


def test_a_side_that_is_gone_costs_nothing(ends: tuple[Connection, socket.socket]) -> None:
    connection, other = ends
    connection.send(LARGE)
    other.close()
    connection.send(b"one")
    with pytest.raises(EOFError):
        connection.receive()
    connection.close(30)


def test_closing_waits_no_longer_than_it_is_told_to() -> None:
    ours, theirs = socket.socketpair()
    connection = Connection(ours)
    connection.send(LARGE)
    connection.close(0.01)
    rest = b""
    while piece := theirs.recv(1 << 20):
        rest += piece
    assert framed(LARGE).startswith(rest) and len(rest) < len(LARGE)
    theirs.close()
