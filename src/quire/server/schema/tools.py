"""Tools that a request offers, and which of them the answer must call: OpenAI's shapes, checked by hand."""

import re
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from quire.core.errors import InvalidRequest, Unsupported
from quire.server.schema.faults import bad
from quire.text.dialects.dialect import Tool

MAX_TOOLS = 512
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,256}")

_NO_OBJECTS = ("string", "number", "integer", "boolean", "null", "array")

ToolChoice = Literal["auto", "none", "required"]

FUNCTION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": f"^{_NAME.pattern}$"},
        "description": {"type": ["string", "null"]},
        "parameters": {"type": ["object", "null"]},
        "strict": {"type": ["boolean", "null"]},
    },
    "required": ["name"],
}
_TOOL_SCHEMA = {
    "type": "object",
    "properties": {"type": {"const": "function"}, "function": FUNCTION_SCHEMA},
    "required": ["function"],
}
TOOLS_SCHEMA = {"anyOf": [{"type": "array", "items": _TOOL_SCHEMA, "maxItems": MAX_TOOLS}, {"type": "null"}]}
TOOL_CHOICE_SCHEMA = {
    "anyOf": [
        {"enum": ["auto", "none", "required"]},
        {
            "type": "object",
            "properties": {
                "type": {"const": "function"},
                "function": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            },
            "required": ["type", "function"],
        },
        {"type": "null"},
    ]
}


class Choice(msgspec.Struct, frozen=True):
    """What was asked of calls: a mode, and with ``forced`` the one function that must be called."""

    mode: ToolChoice = "auto"
    forced: str | None = None


def tools_of(value: Any, path: str = "$.tools") -> tuple[Tool, ...]:
    """The tools of a request; raises InvalidRequest or Unsupported with the path of what is wrong."""
    return unique_tools(value, path, _tool, ".function.name")


def unique_tools(value: Any, path: str, read: Callable[[Any, str], Tool], name: str) -> tuple[Tool, ...]:
    """A list of tools, each made by ``read`` of a value and its path; ``name``: where a tool has its name."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise bad(path, value, "must be a list of tools")
    if len(value) > MAX_TOOLS:
        raise InvalidRequest(f"{path} holds {len(value)} tools: at most {MAX_TOOLS} fit in a request.", param=path)
    tools = tuple(read(tool, f"{path}[{i}]") for i, tool in enumerate(value))
    seen: set[str] = set()
    for i, tool in enumerate(tools):
        if tool.name in seen:
            raise bad(f"{path}[{i}]{name}", tool.name, "must differ from the names of the other tools")
        seen.add(tool.name)
    return tools


def function_of(value: Any, path: str, schema: str = "parameters") -> Tool:
    """One function: ``{"name", "description", "parameters", "strict"}``; ``schema``: another name of its parameters."""
    if not isinstance(value, dict):
        raise bad(path, value, "must be an object with a name")
    name = value.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise bad(f"{path}.name", name, "must be 1 to 256 letters, digits or any of _ . : / -")
    description, parameters, strict = value.get("description"), value.get(schema), value.get("strict")
    if description is not None and not isinstance(description, str):
        raise bad(f"{path}.description", description, "must be a string")
    if parameters is not None and not isinstance(parameters, dict):
        raise bad(f"{path}.{schema}", parameters, "must be a JSON schema, an object")
    kind = (parameters or {}).get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    if kinds and all(one in _NO_OBJECTS for one in kinds):
        raise bad(f"{path}.{schema}.type", kind, "must be 'object', as a function's arguments are one")
    if strict is not None and not isinstance(strict, bool):
        raise bad(f"{path}.strict", strict, "must be true or false")
    return Tool(name=name, description=description, parameters=parameters or {}, strict=bool(strict))


def choice_of(value: Any, path: str = "$.tool_choice") -> Choice:
    """What was asked of calls; raises InvalidRequest."""
    if value is None:
        return Choice()
    if value in ("auto", "none", "required"):
        return Choice(value)
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise bad(path, value, 'must be auto, none, required or {"type": "function", "function": {"name": ...}}')
    return Choice("required", name)


def _tool(value: Any, path: str) -> Tool:
    if not isinstance(value, dict):
        raise bad(path, value, "must be an object with type and function")
    kind = value.get("type", "function")
    if kind != "function":
        path = f"{path}.type"
        raise Unsupported(f"{path} is {kind!r:.80}: only tools of type function can be called.", param=path)
    return function_of(value.get("function"), f"{path}.function")
