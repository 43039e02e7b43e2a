"""DeepSeek V3, R1 and V3.1: calls in a section, their names before their arguments.

V3 says what is called, and fences the arguments:  function<｜tool▁sep｜>NAME\\n```json\\n{...}\\n```
V3.1 does neither:                                 NAME<｜tool▁sep｜>{...}

Both are read in either dialect: R1's distills write what they have seen most.
"""

from collections.abc import Mapping, Sequence

import msgspec

from quire.text.dialects.dialect import Parser, Tool
from quire.text.dialects.lark import arguments_rules, marker
from quire.text.dialects.names import read_function_name
from quire.text.dialects.parsing import ReaderParser
from quire.text.dialects.scanner import Scanner, Steps
from quire.text.dialects.sections import Header, Section
from quire.text.grammar.lark import literal

SECTION = "<｜tool▁calls▁begin｜>"
SECTION_END = "<｜tool▁calls▁end｜>"
CALL = "<｜tool▁call▁begin｜>"
CALL_END = "<｜tool▁call▁end｜>"
SEPARATOR = "<｜tool▁sep｜>"
_FENCE = "```"


def _read_header(text: Scanner) -> Steps[Header | None]:
    kind_or_name = yield from read_function_name(text)
    if not (yield from text.follows(SEPARATOR)):
        return None
    yield from text.spaces()
    if (yield from text.peek()) == "{":
        return Header(kind_or_name) if kind_or_name else None
    name = yield from read_function_name(text)
    yield from text.spaces()
    if (yield from text.follows(_FENCE)):
        yield from text.follows("json")
    return Header(name) if name else None


_SECTION = Section(
    begins=(SECTION,),
    ends=(SECTION_END,),
    call=CALL,
    call_end=CALL_END,
    before_end=_FENCE,
    read_header=_read_header,
)


class DeepSeek(msgspec.Struct, frozen=True, kw_only=True):
    """A ``dialect.ToolDialect``, with V3's fences or without."""

    name: str
    has_fences: bool
    markers: tuple[str, ...] = (*_SECTION.markers, SEPARATOR)

    def recognizes(self, template: str) -> bool:
        return CALL in template and SEPARATOR in template and (f"{_FENCE}json" in template) == self.has_fences

    def parser(self, tools: Sequence[Tool]) -> Parser:
        return ReaderParser(_SECTION.read)

    def grammar(self, tools: Sequence[Tool], *, at_most_one: bool, special: Mapping[str, int]) -> str:
        section, section_end = marker(SECTION, special), marker(SECTION_END, special)
        begin, separator, end = (marker(tag, special) for tag in (CALL, SEPARATOR, CALL_END))
        if self.has_fences:
            calls = "call" if at_most_one else 'call ("\\n" call)*'
            opened = [literal(f"{tool.name}\n{_FENCE}json\n") for tool in tools]
            bodies = [f'{opening} arguments_{i} "\\n{_FENCE}"' for i, opening in enumerate(opened)]
            call = f'{begin} "function" {separator} ({" | ".join(bodies)}) {end}'
        else:
            calls = "call" if at_most_one else "call+"
            bodies = [f"{literal(tool.name)} {separator} arguments_{i}" for i, tool in enumerate(tools)]
            call = f"{begin} ({' | '.join(bodies)}) {end}"
        return f"calls: {section} {calls} {section_end}\ncall: {call}\n" + arguments_rules(tools)
