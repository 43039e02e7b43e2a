"""The way to an engine in another process: start it, talk to it over a socket, notice when it ends.

Messages are msgpack over a pair of connected sockets that no one else can reach. This side never imports torch.
"""

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable

import msgspec

from quire.core import errors, threads
from quire.core.codec import Decoder, encode
from quire.core.config import EngineConfig
from quire.core.errors import EngineDead
from quire.core.framing import Cutter, framed
from quire.core.messages import Abort, Died, EngineInfo, FromEngine, ToEngine

log = logging.getLogger("quire")

_PATIENCE_S = 5.0
"""Time that an engine has to end when told to."""
_DYING_S = 0.2
"""Time from the end of an engine's socket to that of its process."""


class EngineProcess:
    """One engine's process and the socket to it. Owned by the client that started it."""

    def __init__(self, config: EngineConfig) -> None:
        """Start the process; returns at once, long before the engine is ready."""
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "quire.engine.process", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=threads.settle(dict(os.environ)),
                process_group=0,  # a Ctrl-C is for us, and we tell the engine what we want
            )
        with contextlib.suppress(OSError):
            self.socket.sendall(framed(encode(config)))

    def stop(self, timeout_s: float = _PATIENCE_S) -> None:
        """Close the socket, by which the process is told to end; wait for that, then make it."""
        self.socket.close()
        try:
            self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


class EngineClient(asyncio.Protocol):
    """The client's end of the socket, on an asyncio loop.

    ``on_message`` is called on the loop for every message, in order; ``on_death`` once, with the reason, when the
    engine ends without having been asked to.
    """

    def __init__(
        self,
        process: EngineProcess,
        on_message: Callable[[FromEngine], None],
        on_death: Callable[[str], None],
    ) -> None:
        self._process = process
        self._on_message = on_message
        self._on_death = on_death
        self._cutter = Cutter()
        self._decoder: Decoder[FromEngine] = Decoder(FromEngine)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._ready: asyncio.Future[EngineInfo] = self._loop.create_future()
        self._closing = False
        self._dead = False

    async def ready(self) -> EngineInfo:
        """Wait until the engine can take requests; raises what kept it from starting. Called once."""
        self._transport, _ = await self._loop.create_unix_connection(lambda: self, sock=self._process.socket)
        return await self._ready

    def send(self, message: ToEngine) -> None:
        """Put a message on its way; raises EngineDead where nobody is there to read it. Only to one that was ready."""
        if self._dead or self._closing:
            raise EngineDead("The engine has ended and takes no more requests.")
        assert self._transport is not None
        self._transport.write(framed(encode(message)))

    def abort(self, handles: list[int]) -> None:
        """Have the engine end these sequences; nothing to do if it has ended itself, and they with it."""
        if handles:
            with contextlib.suppress(EngineDead):
                self.send(Abort(handles))

    async def close(self) -> None:
        """Ask the engine to end and wait for it. Cancelled, nothing is left open here, and it is still made to end."""
        if self._closing:
            return
        self._closing = True
        if not self._dead:
            with contextlib.suppress(OSError):  # closing alone says nothing while a process forked off has a copy
                self._process.socket.shutdown(socket.SHUT_RDWR)
        if self._transport is not None:
            self._transport.abort()
        has_started = self._ready.done() and not self._ready.cancelled()
        await self._loop.run_in_executor(None, self._process.stop, _PATIENCE_S if has_started else 0.0)

    def data_received(self, data: bytes) -> None:
        for piece in self._cutter.cut(data):
            try:
                message = self._decoder.decode(piece)
            except msgspec.DecodeError as error:
                self._die(f"The engine sent what cannot be read: {error}")
                return
            try:
                self._take(message)
            except Exception:  # asyncio would take it for the connection's end
                log.exception("a message of the engine was not dealt with")

    def connection_lost(self, error: Exception | None) -> None:
        """The engine has ended, or is about to."""
        if self._dead or self._closing:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.popen.wait(_DYING_S)
        self._die(f"The engine process ended unexpectedly (exit code {self._process.popen.returncode}).")

    def _take(self, message: FromEngine) -> None:
        if isinstance(message, EngineInfo) and not self._ready.done():
            self._ready.set_result(message)
        elif isinstance(message, Died):
            self._die(message.error, message.kind)
        else:
            self._on_message(message)

    def _die(self, reason: str, kind: str = "EngineDead") -> None:
        if self._dead or self._closing:
            return
        self._dead = True
        if not self._ready.done():
            self._ready.set_exception(errors.of_kind(kind, reason))
        self._on_death(reason)
