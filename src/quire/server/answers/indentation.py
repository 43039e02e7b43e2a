"""Ends a text before a line that is indented less than it should be: for editors that ask for the inside of a block."""


class IndentGuard:
    """Watches one text as it comes. The line that it begins with may be indented as it likes.

    Spaces and tabs count alike. An empty line is indented less too.
    """

    def __init__(self, num_spaces: int) -> None:
        self._needed = num_spaces
        self._indent: int | None = None
        """Of the line that has begun with nothing but spaces; None inside a line."""

    def push(self, text: str) -> tuple[str, bool]:
        """As much of ``text`` as may stay, and whether it ends there; after that, no more text."""
        for at, char in enumerate(text):
            if self._indent is not None:
                if char in " \t":
                    self._indent += 1
                    continue
                if self._indent < self._needed:
                    return text[:at], True
                self._indent = None
            if char == "\n":
                self._indent = 0
        return text, False
