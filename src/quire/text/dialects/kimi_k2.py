"""Kimi K2: calls in a section, each headed by its id, functions.NAME:N.

The template shows a call's id to the model as the client gives it back, so models write other ids too once they have
seen them: ``functions_NAME_N`` and the like are read where NAME is a function that is offered.
"""

import re
from collections.abc import Mapping, Sequence

import msgspec

from quire.text.dialects.dialect import Parser, Tool
from quire.text.dialects.lark import arguments_rules, marker
from quire.text.dialects.names import read_function_name
from quire.text.dialects.parsing import ReaderParser
from quire.text.dialects.scanner import Scanner, Steps
from quire.text.dialects.sections import Header, Section
from quire.text.grammar.lark import literal

SECTION = "<|tool_calls_section_begin|>"
SECTION_END = "<|tool_calls_section_end|>"
CALL = "<|tool_call_begin|>"
ARGUMENTS = "<|tool_call_argument_begin|>"
CALL_END = "<|tool_call_end|>"
_SINGULAR = ("<|tool_call_section_begin|>", "<|tool_call_section_end|>")
"""No tokens, but written by models."""

_ID = re.compile(r"(?:functions\.)?(.+?)(?::[0-9]+)?")


class KimiK2(msgspec.Struct, frozen=True):
    """A ``dialect.ToolDialect``."""

    name: str = "kimi_k2"
    markers: tuple[str, ...] = (SECTION, SECTION_END, CALL, ARGUMENTS, CALL_END)

    def recognizes(self, template: str) -> bool:
        # The first templates declared tools and did not show calls.
        return CALL in template or "tool_declare<|im_middle|>" in template

    def parser(self, tools: Sequence[Tool]) -> Parser:
        offered = frozenset(tool.name for tool in tools)

        def read_header(text: Scanner) -> Steps[Header | None]:
            call_id = yield from read_function_name(text)
            yield from text.spaces()
            if not call_id or not (yield from text.follows(ARGUMENTS)):
                return None
            return Header(_name(call_id, offered), call_id)

        section = Section(
            begins=(SECTION, _SINGULAR[0]),
            ends=(SECTION_END, _SINGULAR[1]),
            call=CALL,
            call_end=CALL_END,
            read_header=read_header,
        )
        return ReaderParser(section.read)

    def grammar(self, tools: Sequence[Tool], *, at_most_one: bool, special: Mapping[str, int]) -> str:
        section, section_end = marker(SECTION, special), marker(SECTION_END, special)
        begin, arguments, end = (marker(tag, special) for tag in (CALL, ARGUMENTS, CALL_END))
        bodies = [
            f"{literal(f'functions.{tool.name}:')} NUMBER {arguments} arguments_{i}" for i, tool in enumerate(tools)
        ]
        return (
            f"calls: {section} {'call' if at_most_one else 'call+'} {section_end}\n"
            f"call: {begin} ({' | '.join(bodies)}) {end}\nNUMBER: /[0-9]{{1,4}}/\n" + arguments_rules(tools)
        )


def _name(call_id: str, offered: frozenset[str]) -> str:
    """The function that an id names."""
    match = _ID.fullmatch(call_id)
    assert match is not None
    if match[1] in offered:
        return match[1]
    for name in sorted(offered, key=len, reverse=True):
        if re.fullmatch(rf"(?:functions?[._:]?)?{re.escape(name)}[._:]?[0-9]*", call_id):
            return name
    return match[1]
