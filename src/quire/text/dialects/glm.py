"""GLM-4.5 and later: a function's name, then a pair of tags for each argument's name and value.

    <tool_call>NAME
    <arg_key>KEY</arg_key>
    <arg_value>VALUE</arg_value>
    </tool_call>

GLM-4.7 writes all of it on one line. Values are theirs to the last space. Text between the pairs is no argument, and so
content, told behind the call.
"""

from collections.abc import Mapping, Sequence

import msgspec

from quire.text.dialects.dialect import Parser, Tool
from quire.text.dialects.lark import marker
from quire.text.dialects.names import read_function_name, read_name
from quire.text.dialects.parsing import Output, ReaderParser
from quire.text.dialects.scanner import Emit, Scanner, Steps
from quire.text.dialects.typed_arguments import TypedArguments
from quire.text.dialects.typed_grammar import Tags, typed_arguments_rules
from quire.text.grammar.lark import literal

BEGIN = "<tool_call>"
END = "</tool_call>"
KEY = "<arg_key>"
KEY_END = "</arg_key>"
VALUE = "<arg_value>"
VALUE_END = "</arg_value>"


class Glm(msgspec.Struct, frozen=True, kw_only=True):
    """A ``dialect.ToolDialect``; ``line_break`` is what its templates write behind a call's name and each tag pair."""

    name: str
    line_break: str
    markers: tuple[str, ...] = (BEGIN, END, KEY, KEY_END, VALUE, VALUE_END)

    def recognizes(self, template: str) -> bool:
        return f"{KEY_END}{self.line_break}" in template and KEY in template and VALUE in template

    def parser(self, tools: Sequence[Tool]) -> Parser:
        offered = {tool.name: tool for tool in tools}
        return ReaderParser(lambda text, out: _read(text, out, offered))

    def grammar(self, tools: Sequence[Tool], *, at_most_one: bool, special: Mapping[str, int]) -> str:
        begin, end = marker(BEGIN, special), marker(END, special)
        key, key_end, value = (marker(tag, special) for tag in (KEY, KEY_END, VALUE))
        gap = f" {literal(self.line_break)}" if self.line_break else ""
        is_token = VALUE_END in special
        tags = Tags(
            before=lambda name: f"{key} {name} {key_end}{gap} {value}",
            after=self.line_break if is_token else VALUE_END + self.line_break,
            after_token=marker(VALUE_END, special) if is_token else "",
            ends=r"(?s:.*)<\/arg_value>(?s:.*)",
        )
        functions = " | ".join(f"{literal(tool.name + self.line_break)} arguments_{i}" for i, tool in enumerate(tools))
        calls = "call" if at_most_one else f"call ({literal(self.line_break)} call)*" if gap else "call+"
        return f"calls: {calls}\ncall: {begin} ({functions}) {end}\n" + typed_arguments_rules(tools, tags)


def _read(text: Scanner, out: Output, offered: Mapping[str, Tool]) -> Steps[None]:
    found = yield from text.until((BEGIN,), out.content)
    while found is not None:
        text.hold(BEGIN)
        name = yield from read_function_name(text)
        yield from text.spaces()
        found = (yield from text.follows_any((KEY, END))) if name else None
        if found is None:
            out.content(text.let_go())
        else:
            text.let_go()
            out.begin(name)
            aside: list[str] = []
            arguments = TypedArguments(offered.get(name), out.arguments)
            found = yield from _read_arguments(text, arguments, found, aside.append)
            out.content("".join(aside))
        if found != BEGIN:
            found = yield from text.until((BEGIN,), out.content)


def _read_arguments(text: Scanner, arguments: TypedArguments, found: str | None, aside: Emit) -> Steps[str | None]:
    """What stands behind the first marker, and the marker that ended it; None at the end of the text."""
    while found == KEY:
        text.hold(KEY)
        key = yield from _read_key(text)
        if key is None:
            aside(text.let_go())
        else:
            text.let_go()
            value = arguments.value(key)
            if (yield from text.until((VALUE_END,), value.add)) is None:
                value.cut()
                return None
            value.close()
        yield from text.spaces()
        found = yield from text.until((KEY, END, BEGIN), aside)
    if found is not None:
        arguments.close()
    return found


def _read_key(text: Scanner) -> Steps[str | None]:
    key = yield from read_name(text)
    if not key or not (yield from text.follows(KEY_END)):
        return None
    yield from text.spaces()
    return key if (yield from text.follows(VALUE)) else None
