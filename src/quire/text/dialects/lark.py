"""Pieces of grammars for calls, in llguidance's dialect of Lark."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from quire.core.errors import InvalidRequest
from quire.text.dialects.dialect import Tool
from quire.text.grammar.lark import literal

_WHITESPACE = r"[ \t\r\n]{1,32}"
"""Between the parts of a JSON value. Without a bound a model may write spaces to the end of its budget."""


def marker(text: str, special: Mapping[str, int]) -> str:
    """A marker: the tokenizer's special token where it has one of that name, else its characters."""
    return f"<[{special[text]}]>" if text in special else literal(text)


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """The JSON schema of a tool's arguments, an object in any case."""
    return tool.parameters if isinstance(tool.parameters.get("type"), str) else {**tool.parameters, "type": "object"}


def named_arguments(tool: Tool) -> tuple[dict[str, Any], list[str]]:
    """The schemas of a tool's arguments by their names, and the names of the required ones.

    Raises InvalidRequest where they are none.
    """
    properties, required = tool.parameters.get("properties") or {}, tool.parameters.get("required") or []
    is_list = isinstance(required, list) and all(isinstance(name, str) for name in required)
    if not isinstance(properties, dict) or not is_list:
        raise InvalidRequest(
            f"The parameters of the tool {tool.name!r} are no JSON schema: properties must be an object, and required "
            "a list of names.",
            param="$.tools",
        )
    return properties, required


def shared_schemas(tool: Tool) -> dict[str, Any]:
    """What the schemas of single arguments may refer to."""
    return {key: value for key, value in tool.parameters.items() if key in ("$defs", "definitions")}


def inline(schema: Mapping[str, Any], *, is_strict: bool = False) -> str:
    """A JSON value of this schema. What cannot be enforced is left out, unless it is strict."""
    options = {"whitespace_pattern": _WHITESPACE, "lenient": not is_strict}
    return "%json " + json.dumps({**schema, "x-guidance": options}, ensure_ascii=False)


def arguments_rules(tools: Sequence[Tool]) -> str:
    """Rules ``arguments_0``, ``arguments_1`` ...: the JSON object that each of the tools takes."""
    return "".join(
        f"arguments_{i}: {inline(arguments_schema(tool), is_strict=tool.strict)}\n" for i, tool in enumerate(tools)
    )


def object_rules(tools: Sequence[Tool], arguments: str = "arguments") -> str:
    """A rule ``object``: a call of one of the tools as {"name": ..., ``arguments``: ...}, and what it stands on."""
    choices = []
    for i, tool in enumerate(tools):
        opening = '{"name": ' + json.dumps(tool.name) + f', "{arguments}": '
        choices.append(f"{literal(opening)} arguments_{i} {literal('}')}")
    return "object: " + " | ".join(choices) + "\n" + arguments_rules(tools)
