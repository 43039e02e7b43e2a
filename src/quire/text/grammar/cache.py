"""What was found out about grammars lately, as much of it as fits into so many bytes."""

import hashlib
import threading
from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")

_ENTRY_BYTES = 512
"""What an entry takes beside its value."""


class GrammarCache(Generic[V]):
    """Text -> what is known of it; what was longest not asked for goes first. Any thread may use it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, tuple[V, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        return self._bytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, text: bytes) -> V | None:
        key = _key(text)
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                return None
            self._entries.move_to_end(key)
            return found[0]

    def put(self, text: bytes, value: V, num_bytes: int) -> None:
        """``num_bytes``: how large the value is, about."""
        key, size = _key(text), num_bytes + _ENTRY_BYTES
        with self._lock:
            if key in self._entries:
                self._bytes -= self._entries.pop(key)[1]
            self._entries[key] = (value, size)
            self._bytes += size
            while self._bytes > self._max_bytes and self._entries:
                _, (_, old) = self._entries.popitem(last=False)
                self._bytes -= old


def _key(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()
