"""A JSON list of calls behind a marker: Granite, Phi, Jamba, Nemotron, each with its own.

<|tool_call|>[{"name": ..., "arguments": {...}}, ...]
"""

from collections.abc import Mapping, Sequence

import msgspec

from quire.text.dialects.dialect import Parser, Tool
from quire.text.dialects.json_calls import marked_calls
from quire.text.dialects.lark import marker, object_rules
from quire.text.dialects.parsing import ReaderParser


class JsonList(msgspec.Struct, frozen=True, kw_only=True):
    """A ``dialect.ToolDialect``; what the family writes around its list, and what some of its models write instead."""

    name: str
    begin: str
    end: str | None = None
    other_begins: tuple[str, ...] = ()
    other_ends: tuple[str, ...] = ()
    told_by: tuple[str, ...]
    """A template that has one of these is of this family."""

    @property
    def markers(self) -> tuple[str, ...]:
        return (self.begin, *self.other_begins, *self._ends)

    def recognizes(self, template: str) -> bool:
        return any(sign in template for sign in self.told_by)

    def parser(self, tools: Sequence[Tool]) -> Parser:
        return ReaderParser(marked_calls((self.begin, *self.other_begins), self._ends))

    def grammar(self, tools: Sequence[Tool], *, at_most_one: bool, special: Mapping[str, int]) -> str:
        objects = '"[" object "]"' if at_most_one else '"[" object (", " object)* "]"'
        end = "" if self.end is None else f" {marker(self.end, special)}"
        return f"calls: {marker(self.begin, special)} {objects}{end}\n" + object_rules(tools)

    @property
    def _ends(self) -> tuple[str, ...]:
        return self.other_ends if self.end is None else (self.end, *self.other_ends)
