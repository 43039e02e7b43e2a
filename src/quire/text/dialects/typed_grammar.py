"""Grammars of arguments that are written as bare text between tags: the mirror of ``typed_arguments``.

Arguments stand in the schema's order, required ones always. Strings are text without the tags that would end them, of
the schema's lengths, and where the tool is strict of its pattern; a value among given ones is one of them; all else is
JSON by its schema. A tool without named arguments takes text for any name, unless its schema says that it takes none.

What a schema says across its arguments (anyOf at its root and the like) cannot be said here: a strict tool is refused.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from quire.core.errors import InvalidRequest
from quire.text.dialects.dialect import Tool
from quire.text.dialects.lark import inline, named_arguments, shared_schemas
from quire.text.dialects.typed_arguments import kinds, property_schema, referred
from quire.text.grammar.lark import literal, regex_body

_ACROSS = ("anyOf", "oneOf", "allOf", "not", "if", "dependentRequired", "dependentSchemas", "patternProperties", "$ref")
_UNSAYABLE = ("not", "if")
"""What cannot be said of text; of JSON, the regex or the schema's own compiler says."""
_ANY_NAME = r"/[A-Za-z0-9_.\-]+/"
_MAX_DEPTH = 16
_MAX_VALUES = 1024
"""Ways to write the arguments of one tool: alternatives within alternatives multiply."""


class Tags(msgspec.Struct, frozen=True, kw_only=True):
    """How a dialect writes one argument, in pieces of Lark."""

    before: Callable[[str], str]
    """What stands before the value, from the Lark of the name."""
    after: str
    """The text that stands behind it."""
    after_token: str = ""
    """A token before that."""
    ends: str
    """A regex of all texts that a value cannot be, since something in them would end it."""


def typed_arguments_rules(tools: Sequence[Tool], tags: Tags) -> str:
    """Rules ``arguments_0``, ``arguments_1`` ...: the arguments of each of the tools, with their tags.

    Raises InvalidRequest for a strict tool whose schema cannot be held.
    """
    return "".join(_Rules(f"{i}", tool, tags).lines() for i, tool in enumerate(tools))


class _Rules:
    """The rules of one tool; names of rules end with its number."""

    def __init__(self, number: str, tool: Tool, tags: Tags) -> None:
        self._number = number
        self._tool = tool
        self._parameters = tool.parameters
        self._tags = tags
        self._lines: list[str] = []
        self._num_values = 0
        self._after = " ".join(part for part in (tags.after_token, tags.after and literal(tags.after)) if part)

    def lines(self) -> str:
        self._refuse_if_strict(self._parameters, _ACROSS, "at the root of its parameters")
        self._lines.append(f"arguments_{self._number}: {self._arguments()}")
        return "\n".join(self._lines) + "\n"

    def _refuse_if_strict(self, schema: Mapping[str, Any], words: Sequence[str], place: str) -> None:
        word = next((word for word in words if word in schema), None)
        if self._tool.strict and word is not None:
            raise InvalidRequest(
                f"The tool {self._tool.name[:64]!r} is strict, and {word} {place} cannot be held in the way this model "
                "writes calls: say it in another way, or leave strict out.",
                param="$.tools",
            )

    def _arguments(self) -> str:
        properties, required = named_arguments(self._tool)
        names = [*properties, *(name for name in required if name not in properties)]
        if not names:
            takes_none = self._parameters.get("additionalProperties") is False
            return '""' if takes_none else f"({self._tags.before(_ANY_NAME)} {self._text({}, 'any')})*"
        rules = [(self._rule(name, i), name in required) for i, name in enumerate(names)]
        return " ".join(rule if is_required else f"{rule}?" for rule, is_required in rules)

    def _rule(self, name: str, number: int) -> str:
        rule = f"argument_{self._number}_{number}"
        values = " | ".join(dict.fromkeys(self._values(property_schema(self._parameters, name), f"{number}")))
        self._lines.append(f"{rule}: {self._tags.before(literal(name))} ({values})")
        return rule

    def _values(self, schema: Any, number: str, depth: int = 0) -> list[str]:
        """Ways to write a value, each with what stands behind it."""
        schema = self._resolved(schema)
        for word in ("anyOf", "oneOf"):
            parts = schema.get(word)
            if parts and isinstance(parts, list) and depth < _MAX_DEPTH:
                rest = {key: value for key, value in schema.items() if key != word}
                wholes = [{**rest, **self._resolved(part)} for part in parts]
                return [way for i, part in enumerate(wholes) for way in self._values(part, f"{number}_{i}", depth + 1)]
        self._num_values += 1
        if self._num_values > _MAX_VALUES:
            raise InvalidRequest(
                f"The parameters of the tool {self._tool.name[:64]!r} have more than {_MAX_VALUES} alternatives in "
                "all: simplify them.",
                param="$.tools",
            )
        return self._alternatives(schema, number)

    def _alternatives(self, schema: Mapping[str, Any], number: str) -> list[str]:
        given = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if given and isinstance(given, list):
            return [self._written(value) for value in given]
        types = kinds(schema, self._parameters)
        ways = [self._text(schema, number)] if "string" in types else []
        others = sorted(types - {"string"}) if "type" in schema or not ways else []
        if others:
            ways.append(self._json({**schema, "type": others} if ways else schema))
        return ways

    def _resolved(self, schema: Any) -> dict[str, Any]:
        """A schema with what it refers to, and what all of it must be, in one place."""
        whole: dict[str, Any] = {}
        waiting = [schema]
        for _ in range(_MAX_DEPTH):
            if not waiting:
                break
            part = waiting.pop()
            if not isinstance(part, Mapping):
                continue
            if isinstance(part.get("$ref"), str):
                waiting.append(referred(part["$ref"], self._parameters))
            if isinstance(part.get("allOf"), list):
                waiting += part["allOf"]
            whole = {**{key: value for key, value in part.items() if key not in ("$ref", "allOf")}, **whole}
        return whole

    def _written(self, value: Any) -> str:
        written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if self._tags.after_token:
            return f"{literal(written)} {self._after}" if written else self._after
        return literal(written + self._tags.after)

    def _json(self, schema: Mapping[str, Any]) -> str:
        return f"{inline({**shared_schemas(self._tool), **schema}, is_strict=self._tool.strict)} {self._after}"

    def _text(self, schema: Mapping[str, Any], number: str) -> str:
        """A terminal for a string, with what stands behind it where that is text: a terminal ends where it must."""
        terminal = f"TEXT_{self._number}_{number}".upper()
        self._refuse_if_strict(schema, _UNSAYABLE, "of a string")
        conditions = ["/(?s:.*)/", f"~/{self._tags.ends}/"]
        shortest, longest = schema.get("minLength"), schema.get("maxLength")
        if isinstance(shortest, int) or isinstance(longest, int):
            least, most = (limit if isinstance(limit, int) else "" for limit in (shortest or 0, longest))
            conditions.append(f"/(?s:.){{{least},{most}}}/")
        # A regex may be more than its compiler takes; then it is only worth refusing where it was asked for by name.
        if self._tool.strict and isinstance(schema.get("pattern"), str):
            conditions.append(f"/{_whole(schema['pattern'])}/")
        body = f"({' & '.join(conditions)})"
        if self._tags.after_token:
            self._lines.append(f"{terminal}: {body}")
            return f"{terminal} {self._after}"
        self._lines.append(f"{terminal}: {body} {literal(self._tags.after)}")
        return terminal


def _whole(pattern: str) -> str:
    """A regex of JSON schema, which looks for a place in the text, as one for the whole text; in Lark's spelling."""
    is_first, is_last = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    if "|" in pattern:
        is_first = is_last = False  # An anchor there is one alternative's: the regex's compiler says what it takes.
    inner = pattern[is_first : len(pattern) - is_last]
    return ("" if is_first else "(?s:.*)") + f"({regex_body(inner)})" + ("" if is_last else "(?s:.*)")
