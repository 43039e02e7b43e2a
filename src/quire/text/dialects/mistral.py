"""Mistral: [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...], and newer [TOOL_CALLS]name[ARGS]{...} for each call.

Models write the marker twice, and an object where a list of one belongs. The templates take only ids of nine letters
and digits, so calls get such an id here.
"""

import re
import secrets
import string
from collections.abc import Callable, Mapping, Sequence

import msgspec

from quire.text.dialects.dialect import Parser, Tool
from quire.text.dialects.json_calls import read_marked_call, read_object
from quire.text.dialects.lark import arguments_rules, marker, object_rules
from quire.text.dialects.parsing import Output, ReaderParser
from quire.text.dialects.scanner import Scanner, Steps
from quire.text.grammar.lark import literal

BEGIN = "[TOOL_CALLS]"
_ARGUMENTS = "[ARGS]"
_ID = "[CALL_ID]"
_NAME = re.compile(r"[\w.\-]*")
_ALPHANUMERIC = string.ascii_letters + string.digits


def new_call_id() -> str:
    """A random id of the kind that Mistral's templates ask for."""
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(9))


class Mistral(msgspec.Struct, frozen=True):
    """A ``dialect.ToolDialect``."""

    name: str = "mistral"
    markers: tuple[str, ...] = (BEGIN, _ARGUMENTS, _ID)
    new_id: Callable[[], str] = new_call_id

    def recognizes(self, template: str) -> bool:
        return BEGIN in template

    def parser(self, tools: Sequence[Tool]) -> Parser:
        return ReaderParser(_read, self.new_id)

    def grammar(self, tools: Sequence[Tool], *, at_most_one: bool, special: Mapping[str, int]) -> str:
        begin = marker(BEGIN, special)
        if _ARGUMENTS not in special:
            more = "" if at_most_one else ' (", " object)*'
            return f'calls: {begin} "[" object{more} "]"\n' + object_rules(tools)
        names = [literal(tool.name) for tool in tools]
        arguments = marker(_ARGUMENTS, special)
        calls = [f"{begin} {name} {arguments} arguments_{i}" for i, name in enumerate(names)]
        return f"calls: call{'' if at_most_one else '+'}\ncall: {' | '.join(calls)}\n" + arguments_rules(tools)


def _read(text: Scanner, out: Output) -> Steps[None]:
    while (yield from text.until((BEGIN,), out.content)) is not None:
        text.hold(BEGIN)
        yield from text.spaces()
        while (yield from text.follows(BEGIN)):
            yield from text.spaces()
        if (yield from text.peek()) in ("[", "{"):
            yield from read_marked_call(text, out)
        else:
            yield from _read_named(text, out)


def _read_named(text: Scanner, out: Output) -> Steps[None]:
    """A call whose name stands before its arguments; what is none is content."""
    name: list[str] = []
    own_id: list[str] = []
    yield from text.run(_NAME, name.append)
    if (yield from text.follows(_ID)):
        yield from text.run(_NAME, own_id.append)
    yield from text.follows(_ARGUMENTS)
    yield from text.spaces()

    def begin() -> None:
        text.let_go()
        out.begin("".join(name), "".join(own_id) or None)

    if name:
        yield from read_object(text, begin, out.arguments)
    out.content(text.let_go())
