"""Phi-4-mini: functools[{"name": ..., "arguments": {...}}, ...], or the list between its own special tokens."""

from collections.abc import Mapping, Sequence

import msgspec

from quire.text.dialects.dialect import Parser, Tool
from quire.text.dialects.json_calls import marked_calls
from quire.text.dialects.lark import object_rules
from quire.text.dialects.parsing import ReaderParser

_WORD = "functools"
_BEGIN = "<|tool_call|>"
_END = "<|/tool_call|>"


class Phi(msgspec.Struct, frozen=True):
    """A ``dialect.ToolDialect``."""

    name: str = "phi4_mini"
    markers: tuple[str, ...] = (_BEGIN, _END)

    def recognizes(self, template: str) -> bool:
        return "functools[" in template or "<|/tool|>" in template

    def parser(self, tools: Sequence[Tool]) -> Parser:
        return ReaderParser(marked_calls((_WORD, _BEGIN), _END))

    def grammar(self, tools: Sequence[Tool], *, at_most_one: bool, special: Mapping[str, int]) -> str:
        more = "" if at_most_one else ' (", " object)*'
        return f'calls: "{_WORD}[" object{more} "]"\n' + object_rules(tools)
