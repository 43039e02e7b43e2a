"""Arguments that are written as bare text between tags become one JSON object, typed by the tool's schema.

Text stays text where the schema takes a string; elsewhere it is JSON, or what Python writes of such a value, which some
templates teach. What fits no type that the schema takes stays a JSON string: validating is the client's. A value goes
out while it is written as soon as it can be nothing but text; others are held until they are whole.

Law: the object depends on the names and texts of the arguments, not on how they were cut.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from quire.text.dialects.dialect import Tool
from quire.text.dialects.python_text import read_literal
from quire.text.dialects.scanner import Emit, Scanner, Steps

_UNTYPED = frozenset(("string", "object", "array"))
"""A schema that names no type: what looks like an object or a list is read as one, all else is text."""
_TYPES = frozenset(("string", "integer", "number", "boolean", "null", "object", "array"))
_PYTHON_TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "dict": "object",
    "list": "array",
    "tuple": "array",
}
"""What is no type in JSON schema, but stands in many; other unknown names say nothing."""
_WORDS = {"true": "boolean", "false": "boolean", "null": "null", "none": "null"}
_BRACKETS = {"{": "object", "[": "array"}
_NUMBER = re.compile(r"-?[0-9][0-9.eE+-]*|-")
_MAX_UNDECIDED_CHARS = 64
"""Where text is allowed too, longer numbers are text, and so is what stands behind more space: holding has bounds."""


class TypedArguments:
    """Writes the object of one call: ``value`` for each argument, ``close`` at the end of the last."""

    def __init__(self, tool: Tool | None, emit: Emit) -> None:
        self._parameters: Mapping[str, Any] = tool.parameters if tool is not None else {}
        self._emit = emit
        self._is_empty = True
        emit("{")

    def value(self, name: str) -> "TypedValue":
        """Begin an argument; close it before the next begins."""
        self._emit(("" if self._is_empty else ", ") + json.dumps(name, ensure_ascii=False) + ": ")
        self._is_empty = False
        return TypedValue(kinds(property_schema(self._parameters, name), self._parameters), self._emit)

    def close(self) -> None:
        self._emit("}")


class TypedValue:
    """One argument's text on its way to JSON. If it is never closed, what was written of it stands there unclosed."""

    def __init__(self, types: frozenset[str], emit: Emit) -> None:
        self._types = types
        self._emit = emit
        self._held: list[str] = []
        self._is_decided = "string" not in types or types == {"string"}
        self._is_text = types == {"string"}
        if self._is_text:
            emit('"')

    def add(self, text: str) -> None:
        if self._is_text:
            self._emit(_escaped(text))
            return
        self._held.append(text)
        if not self._is_decided:
            self._decide()

    def close(self) -> None:
        """The value is whole."""
        self._emit('"' if self._is_text else as_json("".join(self._held), self._types))

    def cut(self) -> None:
        """The reply ended within it."""
        if not self._is_text:
            self._emit("".join(self._held))

    def _decide(self) -> None:
        """Where text is one of several types, go on holding only while it may yet be of another."""
        whole = "".join(self._held)
        begun = whole.lstrip()
        is_near = len(whole) - len(begun) <= _MAX_UNDECIDED_CHARS
        if is_near and len(begun) <= _MAX_UNDECIDED_CHARS and (self._may_be_word(begun) or self._may_be_number(begun)):
            return
        self._is_decided = True
        if is_near and _BRACKETS.get(begun[0]) in self._types:
            return
        self._is_text = True
        self._held.clear()
        self._emit('"' + _escaped(whole))

    def _may_be_word(self, begun: str) -> bool:
        lower = begun.rstrip().lower()
        return not lower or any(word.startswith(lower) and kind in self._types for word, kind in _WORDS.items())

    def _may_be_number(self, begun: str) -> bool:
        return not self._types.isdisjoint(("integer", "number")) and _NUMBER.fullmatch(begun.rstrip()) is not None


def as_json(text: str, types: frozenset[str]) -> str:
    """A whole value as JSON: of one of the types if it can be read so, else a string.

    Where no string is expected, null is always taken: it is how models leave an argument out.
    """
    bare = text.strip()
    kind = _WORDS.get(bare.lower())
    if kind is not None and (kind in types or (kind == "null" and "string" not in types)):
        return "null" if kind == "null" else bare.lower()
    try:
        is_json = not types.isdisjoint(_kinds_of(json.loads(bare, parse_constant=_refuse)))
    except (ValueError, RecursionError):
        is_json = False
    if is_json:
        return bare
    literal = _as_literal(bare) if "string" not in types and _BRACKETS.get(bare[:1]) in types else None
    return literal or json.dumps(text, ensure_ascii=False)


def _as_literal(bare: str) -> str | None:
    """A list or dict as Python writes it, or with line breaks in its strings, as JSON."""
    text = Scanner()
    text.feed(bare)
    text.end()
    pieces: list[str] = []

    def read() -> Steps[bool]:
        is_whole = yield from read_literal(text, pieces.append)
        return is_whole and not (yield from text.peek())

    try:
        next(read())
    except StopIteration as stopped:
        return "".join(pieces) if stopped.value else None
    raise AssertionError("a reader waits for text after the end")


def property_schema(parameters: Mapping[str, Any], name: str) -> Any:
    """The schema of an argument, or an empty one."""
    properties = parameters.get("properties")
    if isinstance(properties, Mapping) and name in properties:
        return properties[name]
    others = parameters.get("additionalProperties")
    return others if isinstance(others, Mapping) else {}


def kinds(schema: Any, root: Mapping[str, Any]) -> frozenset[str]:
    """The types that a schema takes, by their names in JSON schema; references are looked up in ``root``."""
    found: set[str] = set()
    seen: set[int] = set()
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, Mapping) or id(part) in seen:
            continue
        seen.add(id(part))
        found.update(_named(part))
        for word in ("anyOf", "oneOf", "allOf"):
            if isinstance(part.get(word), Sequence):
                waiting += part[word]
        if isinstance(part.get("$ref"), str):
            waiting.append(referred(part["$ref"], root))
    return frozenset(found) or _UNTYPED


def referred(path: str, root: Mapping[str, Any]) -> Any:
    """What a reference such as ``#/$defs/Point`` means; an empty schema where it leads nowhere."""
    if not path.startswith("#"):
        return {}
    place: Any = root
    for step in path[1:].split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        place = place.get(step, {}) if isinstance(place, Mapping) else {}
    return place


def _named(schema: Mapping[str, Any]) -> set[str]:
    types = schema.get("type")
    if isinstance(types, Sequence):
        names = {name for name in ([types] if isinstance(types, str) else types) if isinstance(name, str)}
        return {_PYTHON_TYPES.get(name, name) for name in names} & _TYPES
    values = list(schema["enum"]) if isinstance(schema.get("enum"), Sequence) else []
    if "const" in schema:
        values.append(schema["const"])
    return {kind for value in values for kind in _kinds_of(value)[:1]}


def _kinds_of(value: Any) -> tuple[str, ...]:
    match value:
        case None:
            return ("null",)
        case bool():
            return ("boolean",)
        case int():
            return ("integer", "number")
        case float():
            return ("number", "integer") if value.is_integer() else ("number",)
        case str():
            return ("string",)
        case list():
            return ("array",)
        case _:
            return ("object",)


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")
