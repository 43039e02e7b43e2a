"""A conversation: checked by hand, so that every error names its place, and made ready for a chat template.

Text parts become one string, ``developer`` becomes ``system``, a tool call's arguments become an object: what templates
expect. Everything else of a message is passed through to the template.
"""

from typing import Any

import msgspec

from quire.core.errors import Unsupported
from quire.server.schema.faults import bad, expect
from quire.text.nesting import MAX_NESTING, is_deeper

Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")

_PART_TYPES = ("text", "input_text", "output_text")
_PART_SCHEMA = {
    "type": "object",
    "properties": {"type": {"enum": list(_PART_TYPES)}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
_REFUSAL_SCHEMA = {
    "type": "object",
    "properties": {"type": {"const": "refusal"}, "refusal": {"type": "string"}},
    "required": ["type", "refusal"],
    "description": "what the assistant said instead of an answer",
}
_CONTENTS = [
    {"type": "string"},
    {"type": "array", "items": {"anyOf": [_PART_SCHEMA, _REFUSAL_SCHEMA, {"type": "string"}]}},
]
_CALL_SCHEMA = {
    "type": "object",
    "properties": {
        "function": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "arguments": {"type": ["string", "object", "null"]}},
            "required": ["name"],
        }
    },
    "required": ["function"],
}
MESSAGES_SCHEMA = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "properties": {
            "role": {"enum": list(ROLES)},
            "content": {"anyOf": [*_CONTENTS, {"type": "null"}]},
            "refusal": {"type": ["string", "null"]},
            "name": {"type": ["string", "null"]},
            "tool_call_id": {"type": ["string", "null"]},
            "tool_calls": {"type": ["array", "null"], "items": _CALL_SCHEMA},
            "reasoning_content": {"type": ["string", "null"]},
        },
        "required": ["role"],
        "anyOf": [
            {"properties": {"content": {"type": ["string", "array"]}}, "required": ["content"]},
            {"properties": {"tool_calls": {"type": "array", "minItems": 1}}, "required": ["tool_calls"]},
            {"properties": {"refusal": {"type": "string"}}, "required": ["refusal"]},
        ],
    },
}


def messages_of(value: Any) -> list[Message]:
    """The conversation for a chat template; raises InvalidRequest or Unsupported with the path of what is wrong."""
    if not isinstance(value, list) or not value:
        raise bad("$.messages", value, "must be a list of at least one message")
    return [_message(message, f"$.messages[{i}]") for i, message in enumerate(value)]


def _message(value: Any, path: str) -> Message:
    if not isinstance(value, dict):
        raise bad(path, value, "must be an object with role and content")
    role = value.get("role")
    if role not in ROLES:
        raise bad(f"{path}.role", role, f"must be one of {', '.join(ROLES)}")
    message = {name: field for name, field in value.items() if field is not None}
    message["role"] = "system" if role == "developer" else role
    if message.get("audio") or message.get("function_call"):
        name = "audio" if message.get("audio") else "function_call"
        raise Unsupported(f"{path}.{name} is not supported: leave it out.", param=f"{path}.{name}")
    calls = _tool_calls(message.pop("tool_calls", []), f"{path}.tool_calls")
    if calls:
        message["tool_calls"] = calls
    elif value.get("content") is None and value.get("refusal") is None:
        raise bad(f"{path}.content", None, "must be a string or a list of text parts")
    _name_reasoning(message, path)
    for name in ("name", "tool_call_id", "refusal"):
        if name in message and not isinstance(message[name], str):
            raise bad(f"{path}.{name}", message[name], "must be a string")
    # Templates know no refusals: to the model it is what the assistant said.
    refusal = message.pop("refusal", "")
    message["content"] = _content(value.get("content"), f"{path}.content") or refusal
    return message


def _name_reasoning(message: Message, path: str) -> None:
    """Under both names that templates read."""
    given = message.get("reasoning", message.get("reasoning_content"))
    if given is not None:
        if not isinstance(given, str):
            raise bad(f"{path}.reasoning_content", given, "must be a string")
        message["reasoning"] = message["reasoning_content"] = given


def _content(value: Any, path: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise bad(path, value, "must be a string or a list of text parts")
    return "\n".join(_part(part, f"{path}[{i}]") for i, part in enumerate(value))


def _part(value: Any, path: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        raise bad(path, value, 'must be a text part, {"type": "text", "text": ...}')
    kind = value.get("type")
    if kind not in (*_PART_TYPES, "refusal"):
        raise Unsupported(
            f"{path}.type is {kind!r:.80}: the model reads text only, in parts of type text.", param=f"{path}.type"
        )
    name = "refusal" if kind == "refusal" else "text"
    text: str = expect(value.get(name), str, f"{path}.{name}", "must be a string")
    return text


def _tool_calls(value: Any, path: str) -> list[dict[str, Any]]:
    expect(value, list, path, "must be a list")
    calls = []
    for i, call in enumerate(value):
        expect(call, dict, f"{path}[{i}]", "must be an object")
        function = expect(call.get("function"), dict, f"{path}[{i}].function", "must be an object")
        expect(function.get("name"), str, f"{path}[{i}].function.name", "must be a string")
        arguments = arguments_of(function.get("arguments"), f"{path}[{i}].function.arguments")
        calls.append({**call, "type": "function", "function": {**function, "arguments": arguments}})
    return calls


def arguments_of(value: Any, path: str) -> dict[str, Any]:
    """A call's arguments, given as JSON text or as an object; raises InvalidRequest."""
    if isinstance(value, str):
        text = value
        try:
            value = msgspec.json.decode(text or "{}")
        except (ValueError, RecursionError):
            raise bad(path, text, "must be a JSON object as text") from None
        if is_deeper(value, MAX_NESTING):
            raise bad(path, text, f"must be nested at most {MAX_NESTING} deep")
    found: dict[str, Any] = expect(value if value is not None else {}, dict, path, "must be a JSON object as text")
    return found
