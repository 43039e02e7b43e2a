"""Text that comes in pieces, read as if it were there: what every parser of replies stands on.

A reader is a generator: where it needs text that has not come yet, it yields, and goes on when there is more. So it is
written straight down, as if for the whole text, and its steps are composed by ``yield from``.

Law: what an operation consumes, emits and returns depends on the text, never on how it was cut; only the cuts of what
is emitted do. Each character is looked at a bounded number of times, and what was consumed is let go, unless ``hold``
asked for it.
"""

import re
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]
"""A reading that yields where it waits for more text, and returns a T."""

Emit = Callable[[str], object]
"""Takes text that is certain, in non-empty pieces."""

SPACES = re.compile(r"[ \t\r\n]*")
NEWLINES = re.compile(r"\n*")


def drop(_: str) -> None:
    """For text that is read over."""


class Scanner:
    """One text, read from its beginning to its end. ``feed`` and ``end`` are its parser's, the rest its readers'."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._ended = False
        self._held: list[str] | None = None

    def feed(self, text: str) -> None:
        """Further text; a reader that waits may go on."""
        self._text = self._text[self._at :] + text
        self._at = 0

    def end(self) -> None:
        """No more comes."""
        self._ended = True

    # --- holding: text that may yet turn out to be something else than it began as -----------------------------------

    def hold(self, before: str = "") -> None:
        """Remember what is consumed from here on, behind ``before``."""
        self._held = [before]

    def let_go(self) -> str:
        """Stop remembering; what was consumed since ``hold``, or nothing where nobody held."""
        held, self._held = self._held, None
        return "".join(held) if held is not None else ""

    # --- reading ------------------------------------------------------------------------------------------------------

    def peek(self) -> Steps[str]:
        """The next character, not consumed; empty at the end."""
        while self._at == len(self._text):
            if self._ended:
                return ""
            yield
        return self._text[self._at]

    def next(self) -> Steps[str]:
        """The next character; empty at the end."""
        char = yield from self.peek()
        return self._consume(self._at + len(char))

    def follows(self, literal: str) -> Steps[bool]:
        """Whether ``literal`` comes next. It is consumed if so; else nothing is."""
        while not self._text.startswith(literal, self._at):
            unread = len(self._text) - self._at
            if self._ended or unread >= len(literal) or not literal.startswith(self._text[self._at :]):
                return False
            yield
        self._consume(self._at + len(literal))
        return True

    def run(self, pattern: re.Pattern[str], emit: Emit = drop) -> Steps[None]:
        """Consume all that matches a pattern of the form ``[characters]*``."""
        while True:
            match = pattern.match(self._text, self._at)
            assert match is not None
            if match.end() > self._at:
                emit(self._consume(match.end()))
            if self._at < len(self._text) or self._ended:
                return
            yield

    def follows_any(self, literals: tuple[str, ...]) -> Steps[str | None]:
        """Which of the literals comes next, and is consumed."""
        for literal in literals:
            if (yield from self.follows(literal)):
                return literal
        return None

    def spaces(self) -> Steps[None]:
        """Consume JSON's whitespace."""
        return self.run(SPACES)

    def to(self, markers: tuple[str, ...], emit: Emit) -> Steps[str | None]:
        """Consume the text before the first of the markers; the marker, or None if the text ended before one came.

        Held back is only what may be the beginning of a marker. No marker may be a part of another.
        """
        pattern = _search(markers)
        while True:
            match = pattern.search(self._text, self._at)
            is_whole = match is not None and match.lastgroup is not None
            end = len(self._text) if match is None or (self._ended and not is_whole) else match.start()
            if end > self._at:
                emit(self._consume(end))
            if match is not None and is_whole:
                return match[0]
            if self._ended:
                return None
            yield

    def until(self, markers: tuple[str, ...], emit: Emit) -> Steps[str | None]:
        """``to``, and the marker is consumed too."""
        found = yield from self.to(markers, emit)
        if found is not None:
            self._consume(self._at + len(found))
        return found

    def rest(self, emit: Emit) -> Steps[None]:
        """Consume all that comes, to the end."""
        while True:
            if self._at < len(self._text):
                emit(self._consume(len(self._text)))
            if self._ended:
                return
            yield

    def _consume(self, end: int) -> str:
        text = self._text[self._at : end]
        self._at = end
        if self._held is not None:
            self._held.append(text)
        return text


@lru_cache(maxsize=256)
def _search(markers: tuple[str, ...]) -> re.Pattern[str]:
    """Finds a whole marker (as a group), or the beginning of one that the text ends with: the leftmost is what counts.

    None may be a part of another: then, while the beginning of one stands open, no other can be complete behind it.
    """
    assert markers and all(markers) and not any(a != b and a in b for a in markers for b in markers)
    beginnings = []
    for marker in markers:
        beginning = ""
        for char in reversed(marker[:-1]):
            beginning = f"{re.escape(char)}(?:{beginning})?" if beginning else re.escape(char)
        if beginning:
            beginnings.append(beginning)
    wholes = "|".join(map(re.escape, markers))
    return re.compile(f"(?P<whole>{wholes})" + (f"|(?:{'|'.join(beginnings)})\\Z" if beginnings else ""))
