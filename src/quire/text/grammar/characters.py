"""Sets of characters, as ranges of code points: for asking whether one thing can begin as another goes on."""

import re
from collections.abc import Iterable

import msgspec

Range = tuple[int, int]
LAST = 0x10FFFF
_FIRST_SURROGATE, _LAST_SURROGATE = 0xD800, 0xDFFF


class Characters(msgspec.Struct, frozen=True):
    """A set of characters: ranges with both ends, in order, none touching the next."""

    ranges: tuple[Range, ...] = ()

    @classmethod
    def of(cls, ranges: Iterable[Range]) -> "Characters":
        joined: list[Range] = []
        for low, high in sorted(ranges):
            if joined and low <= joined[-1][1] + 1:
                joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
            else:
                joined.append((low, high))
        return cls(tuple(joined))

    def __or__(self, other: "Characters") -> "Characters":
        if not other.ranges or self == other:
            return self
        return Characters.of((*self.ranges, *other.ranges)) if self.ranges else other

    def __invert__(self) -> "Characters":
        gaps: list[Range] = []
        start = 0
        for low, high in self.ranges:
            if low > start:
                gaps.append((start, low - 1))
            start = high + 1
        if start <= LAST:
            gaps.append((start, LAST))
        return Characters(tuple(gaps))

    def meets(self, other: "Characters") -> bool:
        """Whether a character is in both."""
        ours, theirs = iter(self.ranges), iter(other.ranges)
        mine, its = next(ours, None), next(theirs, None)
        while mine is not None and its is not None:
            if mine[1] < its[0]:
                mine = next(ours, None)
            elif its[1] < mine[0]:
                its = next(theirs, None)
            else:
                return True
        return False

    def as_regex(self) -> str:
        """A class for llguidance's regular expressions; the set is not empty."""
        parts = []
        for low, high in self.ranges:
            # Halves of surrogate pairs are no characters, and cannot be written.
            low = _LAST_SURROGATE + 1 if _FIRST_SURROGATE <= low <= _LAST_SURROGATE else low
            high = _FIRST_SURROGATE - 1 if _FIRST_SURROGATE <= high <= _LAST_SURROGATE else high
            if low <= high:
                parts.append(_written(low) if low == high else f"{_written(low)}-{_written(high)}")
        return f"/[{''.join(parts)}]/"


ANY = Characters(((0, LAST),))


def one_of(text: str) -> Characters:
    return Characters.of((ord(char), ord(char)) for char in text)


_PLAIN = re.compile(r"[A-Za-z0-9 ,;:<>=!@%_']")


def _written(code: int) -> str:
    char = chr(code)
    return char if _PLAIN.fullmatch(char) else f"\\x{{{code:x}}}"
