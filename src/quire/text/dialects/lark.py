"""Pieces of grammars for calls, in llguidance's dialect of Lark."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from quire.text.dialects.dialect import Tool


def literal(text: str) -> str:
    """Text that must be written exactly."""
    return json.dumps(text, ensure_ascii=False)


def marker(text: str, special: Mapping[str, int]) -> str:
    """A marker: the tokenizer's special token where it has one of that name, else its characters."""
    return f"<[{special[text]}]>" if text in special else literal(text)


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """The JSON schema of a tool's arguments, an object in any case."""
    return tool.parameters if "type" in tool.parameters else {"type": "object", **tool.parameters}


def arguments_rules(tools: Sequence[Tool]) -> str:
    """Rules ``arguments_0``, ``arguments_1`` ...: the JSON object that each of the tools takes."""
    return "".join(
        f"arguments_{i}: %json {json.dumps(arguments_schema(tool), ensure_ascii=False)}\n"
        for i, tool in enumerate(tools)
    )


def object_rules(tools: Sequence[Tool], arguments: str = "arguments") -> str:
    """A rule ``object``: a call of one of the tools as {"name": ..., ``arguments``: ...}, and what it stands on."""
    choices = []
    for i, tool in enumerate(tools):
        opening = '{"name": ' + json.dumps(tool.name) + f', "{arguments}": '
        choices.append(f"{literal(opening)} arguments_{i} {literal('}')}")
    return "object: " + " | ".join(choices) + "\n" + arguments_rules(tools)
