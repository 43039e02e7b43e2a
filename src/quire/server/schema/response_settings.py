"""What the Responses API says differently from chat: flat tools, which may be called, and the text's format.

Checked by hand, so that every error names its place.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from quire.core.errors import Unsupported
from quire.core.structured_outputs import StructuredOutputs
from quire.server.schema.faults import bad
from quire.server.schema.shapes import json_schema_of
from quire.server.schema.tools import FUNCTION_SCHEMA, MAX_TOOLS, Choice, choice_of, function_of, unique_tools
from quire.text.dialects.dialect import Tool

_FLAT_TOOL_SCHEMA = {
    "type": "object",
    "properties": {"type": {"const": "function"}, **FUNCTION_SCHEMA["properties"]},
    "required": ["type", "name"],
}
FLAT_TOOLS_SCHEMA = {"anyOf": [{"type": "array", "items": _FLAT_TOOL_SCHEMA, "maxItems": MAX_TOOLS}, {"type": "null"}]}

_FUNCTION_CHOICE_SCHEMA = {
    "type": "object",
    "properties": {"type": {"const": "function"}, "name": {"type": "string"}},
    "required": ["type", "name"],
}
_ALLOWED_SCHEMA = {
    "type": "object",
    "properties": {
        "type": {"const": "allowed_tools"},
        "mode": {"enum": ["auto", "required"]},
        "tools": {"type": "array", "items": _FUNCTION_CHOICE_SCHEMA, "minItems": 1, "maxItems": MAX_TOOLS},
    },
    "required": ["type", "mode", "tools"],
}
RESPONSE_CHOICE_SCHEMA = {
    "anyOf": [{"enum": ["auto", "none", "required"]}, _FUNCTION_CHOICE_SCHEMA, _ALLOWED_SCHEMA, {"type": "null"}]
}

TEXT_FORMAT_SCHEMA = {
    "anyOf": [
        {"type": "object", "properties": {"type": {"enum": ["text", "json_object"]}}, "required": ["type"]},
        {
            "type": "object",
            "properties": {
                "type": {"const": "json_schema"},
                "name": {"type": "string"},
                "schema": {"type": "object"},
                "description": {"type": ["string", "null"]},
                "strict": {"type": ["boolean", "null"]},
            },
            "required": ["type", "name", "schema"],
        },
        {"type": "null"},
    ]
}

_HARMLESS = {"defer_loading": (False,), "async": (False,), "allowed_callers": (["direct"], [])}
"""Fields of a function that ask for something else than calls by the model, and the values that do not."""


class ResponseChoice(msgspec.Struct, frozen=True):
    """``allowed``: the names of those tools that may be called at all; None means any."""

    choice: Choice = Choice()
    allowed: frozenset[str] | None = None


def flat_tools_of(value: Any, path: str = "$.tools") -> tuple[Tool, ...]:
    """Raises InvalidRequest, or Unsupported for tools that the server itself would have to run."""
    return unique_tools(value, path, _flat_tool, ".name")


def response_choice_of(value: Any, tools: Sequence[Tool], path: str = "$.tool_choice") -> ResponseChoice:
    """Raises InvalidRequest or Unsupported."""
    if value is None:
        return ResponseChoice()
    if isinstance(value, str) and value in ("auto", "none", "required"):
        return ResponseChoice(choice_of(value))
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "function":
        return ResponseChoice(Choice("required", _name(value, path)))
    if kind == "allowed_tools":
        return _allowed(value, tools, path)
    if isinstance(kind, str):
        raise Unsupported(
            f"{path}.type is {kind!r:.80}: only function and allowed_tools can be chosen here.", param=f"{path}.type"
        )
    raise bad(path, value, 'must be auto, none, required or {"type": "function", "name": ...}')


def text_format_of(value: Any, path: str = "$.text.format") -> StructuredOutputs | None:
    """The shape that the text must have; raises InvalidRequest or Unsupported."""
    if value is None:
        return None
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return StructuredOutputs(json_object=True)
    if kind == "json_schema":
        return json_schema_of(value, path)
    if isinstance(kind, str):
        raise Unsupported(
            f"{path}.type is {kind!r:.80}: it must be text, json_object or json_schema.", param=f"{path}.type"
        )
    raise bad(path, value, "must be an object with a type: text, json_object or json_schema")


def _flat_tool(value: Any, path: str) -> Tool:
    if not isinstance(value, dict):
        raise bad(path, value, "must be an object with type, name and parameters")
    kind = value.get("type")
    if kind != "function":
        raise Unsupported(
            f"{path}.type is {kind!r:.80}: only tools of type function can be called, and the client runs them.",
            param=f"{path}.type",
        )
    for name, harmless in _HARMLESS.items():
        if value.get(name) is not None and value[name] not in harmless:
            raise Unsupported(f"{path}.{name} is not supported: leave it out.", param=f"{path}.{name}")
    return function_of(value, path)


def _allowed(value: dict[str, Any], tools: Sequence[Tool], path: str) -> ResponseChoice:
    mode, listed = value.get("mode"), value.get("tools")
    if mode not in ("auto", "required"):
        raise bad(f"{path}.mode", mode, "must be auto or required")
    if not isinstance(listed, list) or not listed:
        raise bad(f"{path}.tools", listed, "must be a list of at least one tool")
    known = {tool.name for tool in tools}
    names = set()
    for i, one in enumerate(listed):
        at = f"{path}.tools[{i}]"
        if not isinstance(one, dict) or one.get("type") != "function":
            raise bad(at, one, 'must be {"type": "function", "name": ...}')
        name = _name(one, at)
        if name not in known:
            raise bad(f"{at}.name", name, "must be the name of one of the tools")
        names.add(name)
    return ResponseChoice(Choice(mode), frozenset(names))


def _name(value: dict[str, Any], path: str) -> str:
    name = value.get("name")
    if not isinstance(name, str):
        raise bad(f"{path}.name", name, "must be a function's name")
    return name
