"""The way to an engine in another process: start it, talk to it over a socket, notice when it ends.

Messages are msgpack over one zmq PAIR on an ipc:// path inside a folder that only this user can enter. This side never
imports torch.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq

from quire.core import errors, threads
from quire.core.codec import Decoder, encode
from quire.core.config import EngineConfig
from quire.core.errors import EngineDead
from quire.core.messages import Abort, Died, EngineInfo, FromEngine, Shutdown, ToEngine

_EVENTS, _READABLE = int(zmq.EVENTS), int(zmq.POLLIN)  # as enumerations they take longer than all else here
_PATIENCE_S = 5.0
"""Time that an engine has to end when told to."""


class Birth(msgspec.Struct, frozen=True):
    """What a new engine process reads from its standard input."""

    config: EngineConfig
    parent: int
    """Whose process it is: the engine ends, once it has nothing to do, when that one has."""


def socket_in(folder: Path) -> Path:
    """The one file of an engine's folder."""
    return folder / "engine"


class EngineProcess:
    """One engine's process and the folder its socket is in. Owned by the client that started it."""

    def __init__(self, config: EngineConfig) -> None:
        """Start the process; returns at once, long before the engine is ready."""
        self.folder = Path(tempfile.mkdtemp(prefix="quire-"))  # 0700 by mkdtemp
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "quire.engine.process", str(self.folder)],
            stdin=subprocess.PIPE,
            env=threads.settle(dict(os.environ)),
            process_group=0,  # a Ctrl-C is for us, and we tell the engine what we want
        )
        assert self.popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.popen.stdin.write(encode(Birth(config, os.getpid())))
            self.popen.stdin.close()

    def stop(self, timeout_s: float = _PATIENCE_S) -> None:
        """Wait for the process to end by itself, then make it; removes the socket's folder."""
        try:
            self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class EngineClient:
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
        self._decoder: Decoder[FromEngine] = Decoder(FromEngine)
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.bind(f"ipc://{socket_in(process.folder)}")
        self._state, self._receive = self._socket.get, self._socket.recv  # pyzmq searches long for a name
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[EngineInfo] = self._loop.create_future()
        self._closing = False
        self._dead = False
        self._is_attached = True
        self._pidfd = os.pidfd_open(process.popen.pid)
        self._loop.add_reader(self._pidfd, self._ended)
        self._loop.add_reader(self._socket.FD, self._drain)

    async def ready(self) -> EngineInfo:
        """Wait until the engine can take requests; raises what kept it from starting."""
        return await asyncio.shield(self._ready)

    def send(self, message: ToEngine) -> None:
        """Queue a message; raises EngineDead where nobody is there to read it, which may be before ``on_death``."""
        if self._dead or self._closing:
            raise _gone()
        try:
            self._socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:  # nobody is connected: we are about to hear of its end
            raise _gone() from None
        # zmq signals its descriptor only on edges, and sending may have consumed one
        self._loop.call_soon(self._drain)

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
        patience_s = _PATIENCE_S
        if not self._dead:
            try:
                self._socket.send(encode(Shutdown()), zmq.NOBLOCK)
            except zmq.Again:  # it is still starting, and has not connected
                patience_s = 0.0
        try:
            await self._loop.run_in_executor(None, self._process.stop, patience_s)
        finally:  # a context that is forgotten with an open socket waits for it for ever
            self._detach()
            self._socket.close()
            self._context.term()

    def _drain(self) -> None:
        while self._is_attached and int(self._state(_EVENTS)) & _READABLE:
            try:
                message = self._decoder.decode(self._receive(zmq.NOBLOCK))
            except msgspec.DecodeError as error:
                self._die(f"The engine sent what cannot be read: {error}")
                return
            if isinstance(message, EngineInfo) and not self._ready.done():
                self._ready.set_result(message)
            elif isinstance(message, Died):
                self._die(message.error, message.kind)
            else:
                self._on_message(message)

    def _ended(self) -> None:
        """The process is gone: hear its last words, then say so."""
        self._loop.remove_reader(self._pidfd)
        # Its last message may still be on the way through zmq's own thread.
        deadline = time.monotonic() + 0.2
        while not self._dead and time.monotonic() < deadline and self._socket.poll(20):
            self._drain()
        code = self._process.popen.poll()
        self._die(f"The engine process ended unexpectedly (exit code {code}).")

    def _die(self, reason: str, kind: str = "EngineDead") -> None:
        if self._dead or self._closing:
            return
        self._dead = True
        if not self._ready.done():
            self._ready.set_exception(errors.of_kind(kind, reason))
        self._on_death(reason)

    def _detach(self) -> None:
        self._is_attached = False
        self._loop.remove_reader(self._socket.FD)
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)


def _gone() -> EngineDead:
    return EngineDead("The engine has ended and takes no more requests.")
