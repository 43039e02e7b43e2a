"""The engine's own process: reads its configuration from its socket, then answers there until the other side is gone.

    python -m quire.engine.process DESCRIPTOR

The loop takes in every message that has arrived, then runs one step; without work it sleeps on the socket and on the
engine's bell.
"""

import logging
import os
import select
import signal
import socket
import sys

import msgspec

from quire.core.codec import Decoder, encode
from quire.core.config import EngineConfig
from quire.core.errors import QuireError
from quire.core.log import configure
from quire.core.messages import Died, FromEngine, Step, ToEngine
from quire.core.readable import wait_readable
from quire.engine.build import build_engine
from quire.engine.connection import Connection
from quire.engine.engine import Engine

_REST_MS = 1000
_LAST_WORDS_S = 1.0

log = logging.getLogger("quire.engine")


def main() -> int:
    """Run one engine; returns the process's exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the parent, which tells us what it wants
    configure()
    parent = os.getppid()
    connection = Connection(socket.socket(fileno=int(sys.argv[1])))
    try:
        config = _birth(connection)
        engine, info = build_engine(config)
        connection.send(encode(info))
        serve(engine, connection, parent)
    except EOFError:
        return 0
    except QuireError as error:
        connection.send(encode(Died(error.message, type(error).__name__)))
        return 1
    except Exception as error:
        log.exception("the engine cannot go on")
        connection.send(encode(Died(f"The engine failed: {type(error).__name__}: {error}")))
        return 1
    finally:
        connection.close(_LAST_WORDS_S)
    return 0


def _birth(connection: Connection) -> EngineConfig:
    """The first message. Raises EOFError."""
    while (message := connection.receive()) is None:
        wait_readable(connection)
    return Decoder[EngineConfig](EngineConfig).decode(message)


def serve(engine: Engine, connection: Connection, parent: int) -> None:
    """Answer until the other side is gone; raises EOFError where its socket says so."""
    decoder: Decoder[ToEngine] = Decoder(ToEngine)

    def answer(messages: list[FromEngine]) -> None:
        for message in messages:
            connection.send(encode(message))

    poller = select.poll()
    poller.register(engine.bell, select.POLLIN)
    rested = True
    while True:
        if not engine.has_work:
            poller.register(connection, connection.events)
            if not poller.poll(_REST_MS):
                if os.getppid() != parent:  # and a process that it had forked holds the socket open
                    return
                if not rested:
                    engine.rest()
                    rested = True
                continue
            engine.bell.hush()
        connection.push()
        while (data := connection.receive()) is not None:
            try:
                message = decoder.decode(data)
            except msgspec.DecodeError as error:
                log.error("dropped a message that cannot be read: %s", error)
                continue
            answer(engine.handle(message))
        if engine.has_work:
            rested = False
            output = engine.step()
            answer([Step(output)] if output is not None else [])
            answer(engine.settle())


if __name__ == "__main__":
    sys.exit(main())
