"""The engine's own process: reads its birth from standard input, answers on its socket until told to end.

    python -m quire.engine.process FOLDER < Birth

The loop takes in every message that has arrived, then runs one step; without work it sleeps on the socket and on the
engine's bell. It ends when told to, or when its parent is gone.
"""

import contextlib
import logging
import os
import signal
import sys
from pathlib import Path

import msgspec
import zmq

from quire.core.codec import Decoder, encode
from quire.core.errors import QuireError
from quire.core.log import configure
from quire.core.messages import Died, FromEngine, Shutdown, Step, ToEngine
from quire.engine.build import build_engine
from quire.engine.client import Birth, socket_in
from quire.engine.engine import Engine

_IDLE_POLL_MS = 1000

log = logging.getLogger("quire.engine")


def main() -> int:
    """Run one engine; returns the process's exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the parent, which tells us what it wants
    configure()
    folder = Path(sys.argv[1])
    try:
        birth: Birth = Decoder[Birth](Birth).decode(sys.stdin.buffer.read())
    except msgspec.DecodeError as error:
        log.error("no whole birth: the server was killed while it wrote that (%s)", error)
        _put_away(folder)
        return 1
    context = zmq.Context(io_threads=1)
    socket = context.socket(zmq.PAIR)
    socket.setsockopt(zmq.LINGER, 1000)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.connect(f"ipc://{socket_in(folder)}")
    try:
        engine, info = build_engine(birth.config)
        socket.send(encode(info))
        _serve(engine, socket, birth.parent)
    except QuireError as error:
        socket.send(encode(Died(error.message, type(error).__name__)))
        return 1
    except Exception as error:
        log.exception("the engine cannot go on")
        socket.send(encode(Died(f"The engine failed: {type(error).__name__}: {error}")))
        return 1
    finally:
        socket.close()
        context.term()
        if os.getppid() != birth.parent:
            _put_away(folder)
    return 0


def _put_away(folder: Path) -> None:
    """What our parent would do, were it there."""
    with contextlib.suppress(OSError):
        socket_in(folder).unlink(missing_ok=True)
        folder.rmdir()


def _serve(engine: Engine, socket: zmq.Socket[bytes], parent: int) -> None:
    decoder: Decoder[ToEngine] = Decoder(ToEngine)

    def answer(messages: list[FromEngine]) -> None:
        for message in messages:
            socket.send(encode(message))

    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(engine.bell, zmq.POLLIN)
    rested = True
    while True:
        if not engine.has_work:
            if not poller.poll(_IDLE_POLL_MS):
                if os.getppid() != parent:
                    return
                if not rested:
                    engine.rest()
                    rested = True
                continue
            engine.bell.hush()
        while socket.poll(0):
            try:
                message = decoder.decode(socket.recv())
            except msgspec.DecodeError as error:
                log.error("dropped a message that cannot be read: %s", error)
                continue
            if isinstance(message, Shutdown):
                return
            answer(engine.handle(message))
        if engine.has_work:
            rested = False
            output = engine.step()
            answer([Step(output)] if output is not None else [])
            answer(engine.settle())


if __name__ == "__main__":
    sys.exit(main())
