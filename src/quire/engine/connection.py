"""The engine's end of the socket to its client: whole messages in and out, and no waiting for the other side."""

import contextlib
import select
import socket
from collections import deque

from quire.core.framing import Cutter, framed

_PIECE = 1 << 16


class Connection:
    """Owns ``end``. What the socket does not take at once waits here."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._cutter = Cutter()
        self._arrived: deque[memoryview] = deque()
        self._unsent = bytearray()
        self._is_open = True

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def events(self) -> int:
        """What ``select.poll`` should wait for."""
        return select.POLLIN | (select.POLLOUT if self._unsent else 0)

    def receive(self) -> memoryview | None:
        """The next message, or None while there is none. Raises EOFError when there will be none any more."""
        if not self._arrived:
            self._read()
        if self._arrived:
            return self._arrived.popleft()
        if not self._is_open:
            raise EOFError("the other side is gone")
        return None

    def send(self, message: bytes) -> None:
        """Put a message on its way; to a side that is gone it is lost."""
        self._unsent += framed(message)
        self.push()

    def push(self) -> None:
        """Send of what waits as much as the socket takes."""
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._is_open = False
            self._unsent.clear()

    def close(self, patience_s: float) -> None:
        """Send what waits, but wait no longer than this for the other side to take it."""
        with contextlib.suppress(OSError):
            self._socket.settimeout(patience_s)
            self._socket.sendall(self._unsent)
        self._socket.close()

    def _read(self) -> None:
        try:
            piece = self._socket.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        self._is_open = bool(piece)
        self._arrived.extend(self._cutter.cut(piece))
