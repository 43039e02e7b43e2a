"""Anthropic's tools and choice of them. Only tools that the client runs can be offered."""

from collections.abc import Sequence
from typing import Any

from quire.core.errors import InvalidRequest, Unsupported
from quire.server.schema.anthropic import ToolChoiceRequest
from quire.server.schema.faults import bad, expect
from quire.server.schema.tools import ToolChoice, function_of, unique_tools
from quire.text.dialects.dialect import Tool


def tools_of(value: Any) -> tuple[Tool, ...]:
    """The tools of a request; raises InvalidRequest or Unsupported with the path of what is wrong."""
    return unique_tools(value, "$.tools", _tool, ".name")


def choice_of(choice: ToolChoiceRequest | None, tools: Sequence[Tool]) -> tuple[ToolChoice, str | None]:
    """A mode, and the one tool that must be called; raises InvalidRequest if there is nothing to choose from."""
    if choice is None or choice.type == "auto":
        return "auto", None
    if choice.type == "none":
        return "none", None
    if not tools:
        raise InvalidRequest(
            f"$.tool_choice.type is {choice.type!r}, but there are no tools: give tools.", param="$.tools"
        )
    return "required", choice.name if choice.type == "tool" else None


def _tool(value: Any, path: str) -> Tool:
    expect(value, dict, path, "must be an object with name and input_schema")
    kind = value.get("type") or "custom"
    if kind != "custom":
        raise Unsupported(
            f"{path}.type is {kind!r:.80}: only custom tools, with an input_schema, can be called here.",
            param=f"{path}.type",
        )
    schema = value.get("input_schema")
    if not isinstance(schema, dict):
        raise bad(f"{path}.input_schema", schema, "must be a JSON schema, an object")
    callers = value.get("allowed_callers")
    if callers and "direct" not in expect(callers, list, f"{path}.allowed_callers", "must be a list"):
        raise Unsupported(
            f"{path}.allowed_callers is without 'direct': this server runs no code that could call tools.",
            param=f"{path}.allowed_callers",
        )
    return function_of(value, path, "input_schema")
