"""Reads stretches of a weight file into memory that its caller owns.

Reading, not mapping: what is mapped counts as the process's own memory and comes by a fault every few pages, which
costs several times the copy; and of a file that shrinks or fails while it is read, a mapping tells by a signal.
"""

import os
from pathlib import Path

import numpy as np

from quire.core.errors import CorruptCheckpoint, ModelUnavailable


class Stretches:
    """One open file, of which any stretch can be read. Lives in whatever process opened it; close it.

    Raises ModelUnavailable for a file that cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.descriptor: int | None = None
        """The system's number of the file; None once it is closed."""
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ModelUnavailable(f"cannot open {path}: {error.strerror}.") from None

    def read(self, offset: int, out: np.ndarray, where: str) -> None:
        """Fill ``out``, contiguous uint8, with the bytes from ``offset`` on.

        Raises CorruptCheckpoint, beginning with ``where`` (file and tensor), if they cannot be read or are not there.
        """
        assert self.descriptor is not None and out.flags.c_contiguous
        left = out.reshape(-1).data
        while left:
            try:
                count = os.preadv(self.descriptor, [left], offset)
            except OSError as error:
                raise CorruptCheckpoint(f"{where} cannot be read: {error.strerror}.") from None
            if not count:
                raise CorruptCheckpoint(
                    f"{where} ends beyond the end of the file, which was changed while it was read."
                )
            left, offset = left[count:], offset + count

    def close(self) -> None:
        """Close the file. Nothing that was read depends on it."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def __del__(self) -> None:
        self.close()
