"""The two things a dialect may be: a way to write tool calls, and a way to mark reasoning.

A parser is pushed a reply's text as it comes and tells its events; it works in time linear in the text, and never
raises on what a model may write. It holds back what may be the beginning of a marker, whitespace before one, and a call
until it is certain to be one; text that is no well-formed call stays content. A call that names no offered tool is a
call all the same where a marker tells it; where nothing else does, it is content.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from quire.text.dialects.events import Event


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that a request offers to the model."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] = {}
    """JSON schema of its arguments."""
    strict: bool = False
    """The arguments must match the schema, whatever the model would write."""

    def for_template(self) -> dict[str, Any]:
        """As chat templates expect it: OpenAI's shape."""
        function: dict[str, Any] = {"name": self.name, "parameters": self.parameters}
        if self.description is not None:
            function["description"] = self.description
        return {"type": "function", "function": function}


class Parser(Protocol):
    """Reads one reply. Not to be used after ``finish``."""

    def push(self, text: str) -> list[Event]:
        """What this further text makes certain."""
        ...

    def finish(self) -> list[Event]:
        """What was held back, now that nothing more comes."""
        ...


class ToolDialect(Protocol):
    """How a family of models calls tools."""

    @property
    def name(self) -> str: ...

    @property
    def markers(self) -> tuple[str, ...]:
        """Special tokens that belong to the calls: they must reach the parser, where others are not shown.

        The one that stands before calls is the first.
        """
        ...

    def recognizes(self, template: str) -> bool:
        """Whether a chat template teaches this dialect."""
        ...

    def parser(self, tools: Sequence[Tool]) -> Parser:
        """A parser of text without reasoning: its events are Content, CallBegun, CallArguments."""
        ...

    def grammar(self, tools: Sequence[Tool], *, at_most_one: bool, special: Mapping[str, int]) -> str:
        """Lark rules, ``calls`` the first of them, for a reply that is one or more calls of these tools.

        In llguidance's dialect of Lark, with ``%json {...}`` for the arguments. ``special`` has the ids of the
        tokenizer's special tokens by their names: a marker among them is written as a token, another as its characters
        (``lark.marker``).
        """
        ...


class ReasoningDialect(Protocol):
    """How a family of models marks what it thinks."""

    @property
    def name(self) -> str: ...

    @property
    def begin(self) -> str: ...

    @property
    def end(self) -> str: ...

    @property
    def answer_begins(self) -> tuple[str, ...]:
        """Marks of which one stands before every answer, the likeliest first; none where an answer is bare."""
        ...

    @property
    def markers(self) -> tuple[str, ...]: ...

    def recognizes(self, template: str) -> bool: ...

    def is_open(self, prompt: str) -> bool:
        """Whether a prompt ends inside reasoning, so that the reply begins with it."""
        ...

    def is_over(self, prompt: str) -> bool:
        """Whether a prompt ends right behind reasoning, so that the reply has none."""
        ...

    def parser(self, is_open: bool, rest: Parser, calls: tuple[str, ...] = ()) -> Parser:
        """A parser of the whole reply; what is no reasoning goes through ``rest``.

        ``calls``: marks that stand before the calls that ``rest`` reads.
        """
        ...
