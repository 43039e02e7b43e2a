"""The input of the Responses API: items of a conversation, in the many forms that clients send.

Checked by hand, so that every error names its place, and brought into one form: every item has a type, an id and a
status, every content is a list of parts, every call's arguments are text. That form is what the store keeps, what
``input_items`` shows, and what ``response_context`` makes messages of. Ids are given anew, so that an id finds nothing
but what this server named.
"""

import base64
import binascii
import uuid
from collections.abc import Mapping
from typing import Any

from quire.core.errors import InvalidRequest, Unsupported
from quire.server.schema.faults import bad, expect
from quire.server.schema.messages import arguments_of

Item = dict[str, Any]

MAX_ID_CHARS = 256
_ROLES = ("user", "assistant", "system", "developer")
_SEAL = "quire1."
"""How reasoning begins that this server put into ``encrypted_content``."""

_TEXT_PARTS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"type": {"enum": ["input_text", "output_text", "text"]}, "text": {"type": "string"}},
        "required": ["type", "text"],
    },
}
_TEXT = {"anyOf": [{"type": "string"}, _TEXT_PARTS]}
_ID = {"type": ["string", "null"]}
_CALL_ID = {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS}


def _item_schema(kind: str, required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    kinds = [kind] if "type" in required else [kind, None]
    return {"type": "object", "properties": {"type": {"enum": kinds}, **properties}, "required": [*required]}


_ITEM_SCHEMA = {
    "anyOf": [
        _item_schema("message", ("role", "content"), id=_ID, role={"enum": [*_ROLES]}, content=_TEXT),
        _item_schema(
            "function_call",
            ("type", "call_id", "name", "arguments"),
            id=_ID,
            call_id=_CALL_ID,
            name={"type": "string"},
            arguments={"type": "string", "description": "a JSON object as text"},
        ),
        _item_schema("function_call_output", ("type", "call_id", "output"), id=_ID, call_id=_CALL_ID, output=_TEXT),
        _item_schema("reasoning", ("type", "summary"), id=_ID, summary={"type": "array"}, content={"type": "array"}),
        _item_schema("item_reference", ("id",), id={"type": "string"}),
    ]
}
INPUT_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": _ITEM_SCHEMA}]}


def new_id(prefix: str) -> str:
    """A name that nobody can guess: whoever knows it may read what it names."""
    return f"{prefix}_{uuid.uuid4().hex}"


def referenced(value: Any) -> set[str]:
    """The ids of stored items that an input refers to."""
    items = value if isinstance(value, list) else []
    return {item["id"] for item in items if _is_reference(item) and isinstance(item.get("id"), str)}


def items_of(value: Any, stored: Mapping[str, Item], path: str = "$.input") -> list[Item]:
    """The input's items; ``stored`` has those that it refers to. Raises InvalidRequest or Unsupported."""
    if value is None:
        return []
    if isinstance(value, str):
        return [_message({"role": "user", "content": value}, path)]
    if not isinstance(value, list):
        raise bad(path, value, "must be a string or a list of items")
    return [_item(item, stored, f"{path}[{i}]") for i, item in enumerate(value)]


def sealed(reasoning: str) -> str:
    """Reasoning as ``encrypted_content``: opaque, so that clients send it back as it is.

    It hides nothing, and need not: the item has the same text in the clear.
    """
    return _SEAL + base64.b64encode(reasoning.encode()).decode()


def _is_reference(value: Any) -> bool:
    return isinstance(value, dict) and (value.get("type") == "item_reference" or value.keys() == {"id"})


def _item(value: Any, stored: Mapping[str, Item], path: str) -> Item:
    expect(value, dict, path, "must be an item, such as a message with role and content")
    if _is_reference(value):
        return _stored(value, stored, path)
    kind = "message" if value.get("type") is None else value["type"]
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise Unsupported(
            f"{path}.type is {kind!r:.80}: the model reads {', '.join(_READERS)} and item_reference only.",
            param=f"{path}.type",
        )
    if value.get("id") is not None:
        expect(value["id"], str, f"{path}.id", "must be a string")
    return read(value, path)


def _stored(value: Item, stored: Mapping[str, Item], path: str) -> Item:
    wanted = expect(value.get("id"), str, f"{path}.id", "must be a stored item's id")
    if wanted not in stored:
        raise InvalidRequest(
            f"{path}.id is {wanted!r:.80}: no stored response has such an item. It was never here, was made with store "
            "false, or has been dropped: send the item itself.",
            param=f"{path}.id",
        )
    return stored[wanted]


def _message(value: Item, path: str) -> Item:
    role = value.get("role")
    if role == "tool":
        raise bad(f"{path}.role", role, "must be an item of type function_call_output instead")
    if role not in _ROLES:
        raise bad(f"{path}.role", role, f"must be one of {', '.join(_ROLES)}")
    content = value.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    parts = _parts(content, role == "assistant", f"{path}.content")
    return {"id": new_id("msg"), "type": "message", "role": role, "status": _status(value), "content": parts}


def _parts(value: Any, is_output: bool, path: str) -> list[Item]:
    found = expect(value, list, path, "must be a string or a list of text parts")
    return [_part(part, is_output, f"{path}[{i}]") for i, part in enumerate(found)]


def _part(value: Any, is_output: bool, path: str) -> Item:
    expect(value, dict, path, 'must be a text part, {"type": "input_text", "text": ...}')
    kind = value.get("type")
    if kind == "refusal" and is_output:
        return {"type": "refusal", "refusal": _text(value, "refusal", path)}
    if kind not in ("input_text", "output_text", "text"):
        raise Unsupported(
            f"{path}.type is {kind!r:.80}: the model reads text only, in parts of type "
            f"{'output_text' if is_output else 'input_text'}.",
            param=f"{path}.type",
        )
    text = _text(value, "text", path)
    return (
        {"type": "output_text", "text": text, "annotations": []} if is_output else {"type": "input_text", "text": text}
    )


def _function_call(value: Item, path: str) -> Item:
    status = _status(value)
    arguments = _text(value, "arguments", path)
    if status != "incomplete":
        arguments_of(arguments, f"{path}.arguments")
    return {
        "id": new_id("fc"),
        "type": "function_call",
        "status": status,
        "call_id": _call_id(value, path),
        "name": _text(value, "name", path),
        "arguments": arguments or "{}",
    }


def _function_call_output(value: Item, path: str) -> Item:
    output = value.get("output")
    if not isinstance(output, str):
        output = _parts(output, False, f"{path}.output")
    return {
        "id": new_id("fco"),
        "type": "function_call_output",
        "status": _status(value),
        "call_id": _call_id(value, path),
        "output": output,
    }


def _reasoning(value: Item, path: str) -> Item:
    item = {
        "id": new_id("rs"),
        "type": "reasoning",
        "status": _status(value),
        "summary": _texts(value.get("summary"), "summary_text", f"{path}.summary"),
        "content": _texts(value.get("content"), "reasoning_text", f"{path}.content"),
    }
    if not item["content"] and (token := value.get("encrypted_content")) is not None:
        text = _unsealed(token, f"{path}.encrypted_content")
        item["content"] = [{"type": "reasoning_text", "text": text}]
    return item


_READERS = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _function_call_output,
    "reasoning": _reasoning,
}


def _unsealed(token: Any, path: str) -> str:
    expect(token, str, path, "must be a string")
    try:
        if token.startswith(_SEAL):
            return base64.b64decode(token[len(_SEAL) :], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        pass
    raise bad(path, token, "must be what this server sent: what another made cannot be read here")


def _texts(value: Any, kind: str, path: str) -> list[Item]:
    if value is None:
        return []
    for i, part in enumerate(expect(value, list, path, "must be a list")):
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise bad(f"{path}[{i}]", part, f'must be {{"type": "{kind}", "text": ...}}')
    return [{"type": kind, "text": part["text"]} for part in value]


def _status(value: Item) -> str:
    """Of an item that a client sends: completed, unless it says that it was cut off."""
    return "incomplete" if value.get("status") == "incomplete" else "completed"


def _call_id(value: Item, path: str) -> str:
    call_id = expect(value.get("call_id"), str, f"{path}.call_id", "must be the call's id")
    if not 0 < len(call_id) <= MAX_ID_CHARS:
        raise bad(f"{path}.call_id", call_id, f"must have 1 to {MAX_ID_CHARS} characters")
    return call_id


def _text(value: Item, name: str, path: str) -> str:
    return expect(value.get(name), str, f"{path}.{name}", "must be a string")
