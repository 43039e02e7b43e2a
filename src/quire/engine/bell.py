"""Wakes a loop that sleeps on descriptors."""

import contextlib
import os

from quire.core.readable import wait_readable


class Bell:
    """A pipe of which only it matters whether it holds anything. ``ring`` may be called on any thread."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)

    def fileno(self) -> int:
        """What becomes readable."""
        return self._read_end

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full of rings that nobody has heard yet
            os.write(self._write_end, b"\0")

    def hush(self) -> None:
        """Forget all rings."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read_end, 4096):
                pass

    def wait(self) -> None:
        """Sleep until it rings."""
        wait_readable(self)
        self.hush()

    def __del__(self) -> None:
        os.close(self._read_end)
        os.close(self._write_end)
