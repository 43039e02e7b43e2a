"""What the Responses API says differently from chat: flat tools, and the text's format.

Checked by hand, so that every error names its place.
"""

from typing import Any

from quire.core.errors import Unsupported
from quire.core.structured_outputs import StructuredOutputs
from quire.server.schema.faults import bad
from quire.server.schema.shapes import Shape, json_schema_of, only_one, structured_outputs_of
from quire.server.schema.tools import FUNCTION_SCHEMA, MAX_TOOLS, choice_schema, function_of, unique_tools
from quire.text.dialects.dialect import Tool

_FLAT_TOOL_SCHEMA = {
    "type": "object",
    "properties": {"type": {"const": "function"}, **FUNCTION_SCHEMA["properties"]},
    "required": ["type", "name"],
}
FLAT_TOOLS_SCHEMA = {"anyOf": [{"type": "array", "items": _FLAT_TOOL_SCHEMA, "maxItems": MAX_TOOLS}, {"type": "null"}]}

RESPONSE_CHOICE_SCHEMA = choice_schema(is_flat=True)

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


def flat_tools_of(value: Any, path: str = "$.tools") -> tuple[Tool, ...]:
    """Raises InvalidRequest, or Unsupported for tools that the server itself would have to run."""
    return unique_tools(value, path, _flat_tool, ".name")


def response_shape_of(text_format: Any, structured_outputs: dict[str, Any] | None) -> Shape | None:
    """The shape that the text must have, by the two fields that say so; raises InvalidRequest or Unsupported."""
    found = {
        "text.format": _text_format(text_format),
        "structured_outputs": structured_outputs_of(structured_outputs) if structured_outputs else None,
    }
    return only_one({name: shape for name, shape in found.items() if shape is not None})


def _text_format(value: Any) -> Shape | None:
    path = "$.text.format"
    kind = value.get("type") if isinstance(value, dict) else None
    if value is None or kind == "text":
        return None
    if kind == "json_object":
        return Shape(StructuredOutputs(json_object=True), path)
    if kind == "json_schema":
        return Shape(json_schema_of(value, path), f"{path}.schema")
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
