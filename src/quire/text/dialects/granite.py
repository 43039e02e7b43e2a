"""Granite 3: <|tool_call|>[{"name": ..., "arguments": {...}}, ...], or <tool_call> before the list."""

from collections.abc import Mapping, Sequence

import msgspec

from quire.text.dialects.dialect import Parser, Tool
from quire.text.dialects.json_calls import marked_calls
from quire.text.dialects.lark import marker, object_rules
from quire.text.dialects.parsing import ReaderParser

BEGIN = "<|tool_call|>"
_PLAIN_BEGIN = "<tool_call>"


class Granite(msgspec.Struct, frozen=True):
    """A ``dialect.ToolDialect``."""

    name: str = "granite"
    markers: tuple[str, ...] = (BEGIN, _PLAIN_BEGIN)

    def recognizes(self, template: str) -> bool:
        return BEGIN in template

    def parser(self, tools: Sequence[Tool]) -> Parser:
        return ReaderParser(marked_calls((BEGIN, _PLAIN_BEGIN)))

    def grammar(self, tools: Sequence[Tool], *, at_most_one: bool, special: Mapping[str, int]) -> str:
        more = "" if at_most_one else ' (", " object)*'
        return f'calls: {marker(BEGIN, special)} "[" object{more} "]"\n' + object_rules(tools)
