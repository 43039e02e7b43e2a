"""Sleeping until there is something to read."""

import select
from typing import Protocol


class Descriptor(Protocol):
    def fileno(self) -> int: ...


def wait_readable(end: Descriptor, timeout_s: float | None = None) -> bool:
    """Whether ``end`` has something to read, or is over, within this time; None waits for ever.

    For descriptors of any number: ``select.select`` takes none above 1023, and servers have more connections.
    """
    poller = select.poll()
    poller.register(end, select.POLLIN)
    return bool(poller.poll(None if timeout_s is None else timeout_s * 1000))
