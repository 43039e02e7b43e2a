"""Llama 3: {"name": ..., "parameters": {...}}, several separated by semicolons, with <|python_tag|> before or not.

Without the tag nothing tells a call from an answer in JSON but its name, so there it must be one of the offered tools.
"""

from collections.abc import Container, Mapping, Sequence

import msgspec

from quire.text.dialects.dialect import Parser, Tool
from quire.text.dialects.json_calls import read_call
from quire.text.dialects.lark import object_rules
from quire.text.dialects.parsing import Output, ReaderParser
from quire.text.dialects.scanner import Scanner, Steps

TAG = "<|python_tag|>"


class LlamaJson(msgspec.Struct, frozen=True):
    """A ``dialect.ToolDialect``."""

    name: str = "llama3_json"
    markers: tuple[str, ...] = (TAG,)

    def recognizes(self, template: str) -> bool:
        return '"parameters": dictionary of argument name and its value' in template

    def parser(self, tools: Sequence[Tool]) -> Parser:
        offered = frozenset(tool.name for tool in tools)
        return ReaderParser(lambda text, out: _read(text, out, offered))

    def grammar(self, tools: Sequence[Tool], *, at_most_one: bool, special: Mapping[str, int]) -> str:
        # The templates teach the tag for code alone; calls as JSON are written without it.
        calls = "object" if at_most_one else 'object ("; " object)*'
        return f"calls: {calls}\n" + object_rules(tools, "parameters")


def _read(text: Scanner, out: Output, offered: Container[str]) -> Steps[None]:
    while (found := (yield from text.to((TAG, "{"), out.content))) is not None:
        text.hold()
        if found == TAG:
            yield from text.follows(TAG)
            yield from text.spaces()
        is_call = yield from read_call(text, out, None if found == TAG else offered)
        while is_call:
            text.hold()
            yield from text.spaces()
            if not (yield from text.follows(";")):
                out.content(text.let_go())
                break
            yield from text.spaces()
            is_call = yield from read_call(text, out, None if found == TAG else offered)
