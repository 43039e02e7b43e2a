"""Hermes: <tool_call>{"name": ..., "arguments": {...}}</tool_call>, as Qwen2.5, Qwen3 and Nous' models write it.

Calls stand one behind the other, each between its markers; content may come before, and between.
"""

import re
from collections.abc import Mapping, Sequence

import msgspec

from quire.text.dialects.dialect import Parser, Tool
from quire.text.dialects.json_calls import marked_calls
from quire.text.dialects.lark import marker, object_rules
from quire.text.dialects.parsing import ReaderParser

BEGIN = "<tool_call>"
END = "</tool_call>"
_TAUGHT = re.compile(rf'{BEGIN}[^<>{{]{{0,16}}{{+\\?"')
"""A JSON object behind the marker, where other families have XML."""


class Hermes(msgspec.Struct, frozen=True):
    """A ``dialect.ToolDialect``."""

    name: str = "hermes"
    markers: tuple[str, ...] = (BEGIN, END)

    def recognizes(self, template: str) -> bool:
        return _TAUGHT.search(template) is not None

    def parser(self, tools: Sequence[Tool]) -> Parser:
        return ReaderParser(marked_calls((BEGIN,), (END,)))

    def grammar(self, tools: Sequence[Tool], *, at_most_one: bool, special: Mapping[str, int]) -> str:
        begin, end = marker(BEGIN, special), marker(END, special)
        calls = "call" if at_most_one else 'call ("\\n" call)*'
        return f'calls: {calls}\ncall: {begin} "\\n" object "\\n" {end}\n' + object_rules(tools)
