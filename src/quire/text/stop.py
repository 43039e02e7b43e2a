"""Finds stop strings in text that arrives in pieces.

Law: whatever the pieces, what is let out is the text up to the first stop string, exactly. First is the one that is
complete first; of several that end at the same character, the longest. Text that may yet turn out to be the beginning
of a stop string is held back (with ``include`` nothing need be). Time is linear in the text for each stop string.
Source: Knuth, Morris and Pratt, "Fast Pattern Matching in Strings", 1977; the tables are made as far as they are used.
"""

from collections.abc import Sequence


class _Search:
    """One stop string, and how much of it the text so far ends with."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.matched = 0
        self._borders = [0, 0]
        # borders[n]: length of the longest proper prefix of pattern[:n] that is also its suffix

    def end(self, text: str) -> int:
        """Where in ``text`` the pattern is first complete, or -1. The text follows what was searched before."""
        pattern, borders, matched = self.pattern, self._borders, self.matched
        position, length = 0, len(text)
        while position < length:
            if matched == 0:
                position = text.find(pattern[0], position)
                if position < 0:
                    break
            char = text[position]
            while matched and pattern[matched] != char:
                matched = borders[matched]
            if pattern[matched] == char:
                matched += 1
                if matched == len(pattern):
                    return position + 1
                if matched == len(borders):
                    borders.append(self._border(matched))
            position += 1
        self.matched = matched
        return -1

    def _border(self, length: int) -> int:
        pattern, borders = self.pattern, self._borders
        last = pattern[length - 1]
        border = borders[length - 1]
        while border and pattern[border] != last:
            border = borders[border]
        return border + (pattern[border] == last)


class StopMatcher:
    """Watches the text of one continuation. ``stop`` holds non-empty strings.

    While a caller is short of min_tokens it simply does not push.
    """

    def __init__(self, stop: Sequence[str], include: bool) -> None:
        self._searches = [_Search(pattern) for pattern in dict.fromkeys(stop)]
        self._include = include
        self._held = ""
        self._found: str | None = None

    def push(self, text: str) -> tuple[str, str | None]:
        """Text that may be let out now, and the stop string if one was completed; after that, no more text."""
        if self._found is not None:
            return "", self._found
        first: tuple[int, int] | None = None
        for search in self._searches:
            end = search.end(text if first is None else text[: first[0]])
            if end >= 0 and (first is None or (end, -len(search.pattern)) < first):
                first = (end, -len(search.pattern))
                self._found = search.pattern
        whole = self._held + text
        if first is not None:
            end = len(self._held) + first[0]
            self._held = ""
            return whole[: end if self._include else end + first[1]], self._found
        if self._include:
            return text, None
        keep = len(whole) - max((search.matched for search in self._searches), default=0)
        self._held = whole[keep:]
        return whole[:keep], None

    def flush(self) -> str:
        """What was held back, once it is known that no more text comes."""
        rest, self._held = self._held, ""
        return rest
