"""Calls as Python writes them, [f(a=1, b="x"), g()]: Llama 3.2 and 4, LFM2.

Around the list there may be markers. Without one, nothing tells a call from an answer that shows code but its name, so
there the first must be one of the offered tools.
"""

import json
import re
from collections.abc import Container, Mapping, Sequence
from typing import Any

import msgspec

from quire.text.dialects.dialect import Parser, Tool
from quire.text.dialects.lark import inline, marker, named_arguments, shared_schemas
from quire.text.dialects.parsing import Output, ReaderParser, read_end
from quire.text.dialects.python_text import read_literal
from quire.text.dialects.scanner import Scanner, Steps
from quire.text.grammar.lark import literal

_BEGINS = ("<|python_start|>", "<|python_tag|>", "<|tool_call_start|>")
_ENDS = ("<|python_end|>", "<|tool_call_end|>")
_NAME = re.compile(r"[\w.\-]*")


class Pythonic(msgspec.Struct, frozen=True, kw_only=True):
    """A ``dialect.ToolDialect``; ``begin`` and ``end`` are what the family writes around its calls."""

    name: str
    begin: str | None = None
    end: str | None = None
    told_by: tuple[str, ...]
    """A template that has one of these is of this family."""

    @property
    def markers(self) -> tuple[str, ...]:
        return (*_BEGINS, *_ENDS)

    def recognizes(self, template: str) -> bool:
        return any(sign in template for sign in self.told_by)

    def parser(self, tools: Sequence[Tool]) -> Parser:
        offered = frozenset(tool.name for tool in tools)
        return ReaderParser(lambda text, out: _read(text, out, offered))

    def grammar(self, tools: Sequence[Tool], *, at_most_one: bool, special: Mapping[str, int]) -> str:
        """Values are JSON's, which the reader takes too; True and False alone are Python's."""
        calls = '"[" call "]"' if at_most_one else '"[" call (", " call)* "]"'
        around = [marker(mark, special) if mark else "" for mark in (self.begin, self.end)]
        rules = [
            f"calls: {around[0]} {calls} {around[1]}".rstrip(),
            "call: " + " | ".join(f"call_{i}" for i in range(len(tools))),
        ]
        for i, tool in enumerate(tools):
            rules += [f"call_{i}: {literal(tool.name + '(')} first_{i}_0 {literal(')')}", *_keyword_rules(i, tool)]
        return "\n".join(rules) + "\n"


def _keyword_rules(index: int, tool: Tool) -> list[str]:
    """Rules for the arguments in the schema's order: ``first`` where none came before, ``more`` behind another."""
    properties, required = named_arguments(tool)
    shared = shared_schemas(tool)
    rules = []
    for i, (key, value) in enumerate(properties.items()):
        this, rest = f"{index}_{i}", f"{index}_{i + 1}"
        skip_first, skip_more = ("", "") if key in required else (f" | first_{rest}", f" | more_{rest}")
        rules += [
            f"first_{this}: keyword_{this} more_{rest}{skip_first}",
            f'more_{this}: ", " keyword_{this} more_{rest}{skip_more}',
            f"keyword_{this}: {literal(key + '=')} {_value(value, shared, tool.strict)}",
        ]
    last = f"{index}_{len(properties)}"
    return [*rules, f'first_{last}: ""', f'more_{last}: ""']


def _value(schema: Any, shared: dict[str, Any], is_strict: bool) -> str:
    if isinstance(schema, dict) and schema.get("type") == "boolean":
        return '("True" | "False")'
    return inline({**shared, **schema} if isinstance(schema, dict) else shared, is_strict=is_strict)


def _read(text: Scanner, out: Output, offered: Container[str]) -> Steps[None]:
    while (yield from text.to((*_BEGINS, "["), out.content)) is not None:
        text.hold()
        is_marked = (yield from text.follows_any(_BEGINS)) is not None
        yield from text.spaces()
        if (yield from text.follows("[")) and (yield from _read_list(text, out, None if is_marked else offered)):
            yield from read_end(text, out, _ENDS)
        out.content(text.let_go())


def _read_list(text: Scanner, out: Output, offered: Container[str] | None) -> Steps[bool]:
    """Calls up to the closing bracket; False where that is not reached."""
    while True:
        yield from text.spaces()
        if not (yield from _read_call(text, out, offered)):
            return False
        text.hold()
        offered = None
        yield from text.spaces()
        has_more = yield from text.follows(",")
        yield from text.spaces()
        if (yield from text.follows("]")):
            text.let_go()
            return True
        if not has_more:
            return False


def _read_call(text: Scanner, out: Output, offered: Container[str] | None) -> Steps[bool]:
    """A call, from its name to its closing bracket; told once its first keyword is there, or there is none."""
    name = yield from _read_name(text)
    if not name or (offered is not None and name not in offered) or not (yield from text.follows("(")):
        return False
    separator = "{"
    while True:
        yield from text.spaces()
        if (yield from text.follows(")")):
            if separator == "{":
                text.let_go()
                out.begin(name)
            out.arguments("{}" if separator == "{" else "}")
            return True
        key = yield from _read_name(text)
        yield from text.spaces()
        if not key or not (yield from text.follows("=")):
            return False
        if separator == "{":
            text.let_go()
            out.begin(name)
        out.arguments(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
        separator = ", "
        yield from text.spaces()
        if not (yield from read_literal(text, out.arguments)):
            return False
        yield from text.spaces()
        if not (yield from text.follows(",")) and (yield from text.peek()) != ")":
            return False


def _read_name(text: Scanner) -> Steps[str]:
    pieces: list[str] = []
    yield from text.run(_NAME, pieces.append)
    return "".join(pieces)
