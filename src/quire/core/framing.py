"""How messages stand in a stream of bytes: each behind its length, eight bytes, little endian.

For processes that trust each other: a length is believed.
"""

import struct

_LENGTH = struct.Struct("<Q")


def framed(message: bytes) -> bytes:
    """A message as it goes into the stream."""
    return _LENGTH.pack(len(message)) + message


class Cutter:
    """Cuts one stream into its messages, whatever pieces it comes in."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        """Of messages that are not whole yet."""
        self._missing = _LENGTH.size
        """Bytes without which nothing more can be told."""

    def cut(self, piece: bytes) -> list[memoryview]:
        """The messages that ``piece`` completes, as views of what came."""
        self._pieces.append(piece)
        self._missing -= len(piece)
        if self._missing > 0:
            return []
        whole = memoryview(piece if len(self._pieces) == 1 else b"".join(self._pieces))
        messages, begin, end = [], 0, _end(whole, 0)
        while end <= len(whole):
            messages.append(whole[begin + _LENGTH.size : end])
            begin, end = end, _end(whole, end)
        self._pieces = [bytes(whole[begin:])] if begin < len(whole) else []
        self._missing = end - len(whole)
        return messages


def _end(stream: memoryview, begin: int) -> int:
    """Where the message that begins there ends; of one whose length is not there yet, where that does."""
    start = begin + _LENGTH.size
    return start if start > len(stream) else start + int(_LENGTH.unpack_from(stream, begin)[0])
