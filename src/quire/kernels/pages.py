"""Memory of a CPU that reads as zero, takes nothing until it is written, and can be given back without moving.

Native programs hold addresses, so what lies here must stay where it is. On Linux it is mapped for itself, and the
system takes its pages back when told to (madvise, MADV_DONTNEED) and hands out zeroed ones at the next touch. Elsewhere
pages can be zeroed, and stay ours.
"""

import mmap
import sys

import numpy as np


class Pages:
    """``num_bytes`` of zeros as ``array`` [num_bytes] uint8; freed with the last array over them."""

    can_release = sys.platform == "linux"
    """Whether ``release`` gives memory back."""

    def __init__(self, num_bytes: int) -> None:
        self._map: mmap.mmap | None = None
        if self.can_release and num_bytes:
            self._map = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self.array = np.frombuffer(self._map, np.uint8)
        else:
            self.array = np.zeros(num_bytes, np.uint8)

    def release(self) -> None:
        """Make everything zero again, and give its memory back where that can be done."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)
        else:
            self.array.fill(0)
