"""Replies without a dialect: all of it is content."""

from quire.text.dialects.events import Content, Event


class PlainParser:
    """A ``dialect.Parser`` of text in which nothing is marked."""

    def push(self, text: str) -> list[Event]:
        return [Content(text)] if text else []

    def finish(self) -> list[Event]:
        return []
