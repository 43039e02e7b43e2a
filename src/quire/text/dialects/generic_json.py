"""Calls as bare JSON, for models that were taught no way of their own, or one that is not known here.

Where a call is required, the grammar makes any model write an object, or a list of them. Where it is free to answer,
what counts as a call is such JSON that begins with the name of an offered tool, and Hermes' shape, the one that most
models have seen.
"""

from collections.abc import Container, Mapping, Sequence

import msgspec

from quire.text.dialects import hermes
from quire.text.dialects.dialect import Parser, Tool
from quire.text.dialects.json_calls import read_marked_call
from quire.text.dialects.lark import object_rules
from quire.text.dialects.parsing import Output, ReaderParser
from quire.text.dialects.scanner import Scanner, Steps


class GenericJson(msgspec.Struct, frozen=True):
    """A ``dialect.ToolDialect``."""

    name: str = "json"
    markers: tuple[str, ...] = (hermes.BEGIN, hermes.END)

    def recognizes(self, template: str) -> bool:
        return False

    def parser(self, tools: Sequence[Tool]) -> Parser:
        offered = frozenset(tool.name for tool in tools)
        return ReaderParser(lambda text, out: _read(text, out, offered))

    def grammar(self, tools: Sequence[Tool], *, at_most_one: bool, special: Mapping[str, int]) -> str:
        calls = "object" if at_most_one else '"[" object (", " object)* "]"'
        return f"calls: {calls}\n" + object_rules(tools)


def _read(text: Scanner, out: Output, offered: Container[str]) -> Steps[None]:
    while (found := (yield from text.to((hermes.BEGIN, "[", "{"), out.content))) is not None:
        text.hold()
        if found == hermes.BEGIN:
            yield from text.follows(found)
            yield from read_marked_call(text, out, (hermes.END,))
        else:
            yield from read_marked_call(text, out, (), offered)
