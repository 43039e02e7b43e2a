"""Tools that a request offers, and which of them the answer must call: OpenAI's shapes, checked by hand."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from quire.core.errors import InvalidRequest, Unsupported
from quire.server.schema.faults import bad, expect
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


def choice_schema(*, is_flat: bool) -> dict[str, Any]:
    """What ``choice_of`` takes."""

    def typed(kind: str, properties: dict[str, Any]) -> dict[str, Any]:
        asked = {"type": "object", "properties": properties, "required": list(properties)}
        held = properties if is_flat else {kind: asked}
        return {"type": "object", "properties": {"type": {"const": kind}, **held}, "required": ["type", *held]}

    function = typed("function", {"name": {"type": "string"}})
    listed = {"type": "array", "items": function, "minItems": 1, "maxItems": MAX_TOOLS}
    allowed = typed("allowed_tools", {"mode": {"enum": ["auto", "required"]}, "tools": listed})
    return {"anyOf": [{"enum": ["auto", "none", "required"]}, function, allowed, {"type": "null"}]}


TOOL_CHOICE_SCHEMA = choice_schema(is_flat=False)


class Choice(msgspec.Struct, frozen=True):
    """What was asked of calls: a mode, and with ``forced`` the one function that must be called.

    ``allowed``: the names of those that may be called at all, and where the request has them; None means any.
    """

    mode: ToolChoice = "auto"
    forced: str | None = None
    allowed: Mapping[str, str] | None = None

    def shown(self, tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
        """The tools that the model is told of; raises InvalidRequest where a name that is allowed is none of them."""
        if self.allowed is None:
            return tools if self.mode != "none" else ()
        unknown = self.allowed.keys() - {tool.name for tool in tools}
        for name, path in self.allowed.items():
            if name in unknown:
                raise bad(path, name, "must be the name of one of the tools")
        return tuple(tool for tool in tools if tool.name in self.allowed)


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


def choice_of(value: Any, path: str = "$.tool_choice", *, is_flat: bool = False) -> Choice:
    """What was asked of calls; raises InvalidRequest or Unsupported.

    ``is_flat``: what is asked for stands beside the type, as the Responses API has it, and not under the type's name.
    """
    if value is None:
        return Choice()
    if value in ("auto", "none", "required"):
        return Choice(value)
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "function":
        return Choice("required", _function_name(value, path, is_flat)[0])
    if kind == "allowed_tools":
        return _allowed(value, path, is_flat)
    if isinstance(kind, str):
        raise Unsupported(
            f"{path}.type is {kind!r:.80}: only function and allowed_tools can be chosen here.", param=f"{path}.type"
        )
    raise bad(path, value, "must be auto, none, required or an object of type function or allowed_tools")


def _allowed(value: dict[str, Any], path: str, is_flat: bool) -> Choice:
    asked, path = _asked(value, path, is_flat)
    mode, listed = asked.get("mode"), asked.get("tools")
    if mode not in ("auto", "required"):
        raise bad(f"{path}.mode", mode, "must be auto or required")
    if not isinstance(listed, list) or not listed:
        raise bad(f"{path}.tools", listed, "must be a list of at least one tool")
    allowed: dict[str, str] = {}
    for i, one in enumerate(listed):
        at = f"{path}.tools[{i}]"
        if not isinstance(one, dict) or one.get("type") != "function":
            raise bad(at, one, "must be an object of type function, with a name")
        name, where = _function_name(one, at, is_flat)
        allowed.setdefault(name, where)
    return Choice(mode, allowed=allowed)


def _function_name(value: dict[str, Any], path: str, is_flat: bool) -> tuple[str, str]:
    """The name, and its path."""
    asked, path = _asked(value, path, is_flat)
    name = asked.get("name")
    if not isinstance(name, str):
        raise bad(f"{path}.name", name, "must be a function's name")
    return name, f"{path}.name"


def _asked(value: dict[str, Any], path: str, is_flat: bool) -> tuple[dict[str, Any], str]:
    """What a choice of a type asks for, and its path."""
    if is_flat:
        return value, path
    path = f"{path}.{value['type']}"
    return expect(value.get(value["type"]), dict, path, "must be an object"), path


def _tool(value: Any, path: str) -> Tool:
    if not isinstance(value, dict):
        raise bad(path, value, "must be an object with type and function")
    kind = value.get("type", "function")
    if kind != "function":
        path = f"{path}.type"
        raise Unsupported(f"{path} is {kind!r:.80}: only tools of type function can be called.", param=path)
    return function_of(value.get("function"), f"{path}.function")
