"""What a reply is made of, as events: reasoning, content, and calls of tools.

Laws, for every parser: the events of a text, merged, are the same however the text was cut into pushes, and a call's
arguments come behind its beginning, with nothing else between them.
"""

from collections.abc import Iterable

import msgspec


class Reasoning(msgspec.Struct, frozen=True):
    """More of what the model thinks before it answers."""

    text: str


class Content(msgspec.Struct, frozen=True):
    """More of the answer itself."""

    text: str


class CallBegun(msgspec.Struct, frozen=True):
    """A call of a tool begins; ``index`` counts the reply's calls from 0."""

    index: int
    name: str
    id: str | None = None
    """The model's own name for the call, in dialects that have one."""


class CallArguments(msgspec.Struct, frozen=True):
    """More of a begun call's arguments: pieces of one JSON object's text."""

    index: int
    text: str


Event = Reasoning | Content | CallBegun | CallArguments


class Call(msgspec.Struct, frozen=True):
    """A whole call."""

    name: str
    arguments: str
    """A JSON object as text; what the model wrote of it, if it was cut off."""
    id: str | None = None


class Reply(msgspec.Struct, frozen=True):
    """A whole reply; ``reasoning`` is None where the model gave none."""

    content: str
    reasoning: str | None = None
    calls: tuple[Call, ...] = ()

    @classmethod
    def of(cls, events: Iterable[Event]) -> "Reply":
        """The reply that these events tell."""
        content: list[str] = []
        reasoning: list[str] = []
        calls: list[tuple[CallBegun, list[str]]] = []
        for event in events:
            match event:
                case Reasoning(text):
                    reasoning.append(text)
                case Content(text):
                    content.append(text)
                case CallBegun():
                    calls.append((event, []))
                case CallArguments(index, text):
                    calls[index][1].append(text)
        return cls(
            "".join(content),
            "".join(reasoning) or None,
            tuple(Call(begun.name, "".join(pieces), begun.id) for begun, pieces in calls),
        )
