"""Anthropic's messages: checked by hand, so that every error names its place, and made ready for a chat template.

Consecutive messages of one role are one turn. A result of a tool becomes a message of its own, before what the user
says beside it; a last turn of the assistant's is the beginning of the answer. Law: a string and its one text block,
with or without cache_control, make the same messages.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from quire.core.errors import InvalidRequest, Unsupported
from quire.server.schema.faults import bad, expect
from quire.server.schema.messages import Message

log = logging.getLogger("quire.server")

_ROLES = ("user", "assistant", "system")
_BLOCKS = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "system": ("text",),
    "result": ("text",),
}
"""Kinds of content blocks by where they may stand."""
_BOOKKEEPING = "x-anthropic-billing-header:"
"""Begins a block of some clients' system prompt: a line about the client, another for every request."""


def _object(kind: str, required: Sequence[str], **properties: Any) -> dict[str, Any]:
    properties = {"type": {"const": kind}, **properties}
    return {"type": "object", "properties": properties, "required": ["type", *required]}


_STRING = {"type": "string"}
_TEXT_SCHEMA = _object("text", ["text"], text=_STRING)
_TEXTS_SCHEMA = {"anyOf": [_STRING, {"type": "array", "items": _TEXT_SCHEMA}]}
SYSTEM_SCHEMA = {"anyOf": [*_TEXTS_SCHEMA["anyOf"], {"type": "null"}]}
_BLOCK_SCHEMAS = [
    _TEXT_SCHEMA,
    _object("thinking", ["thinking"], thinking=_STRING, signature=_STRING),
    _object("redacted_thinking", [], data=_STRING),
    _object("tool_use", ["id", "name", "input"], id=_STRING, name=_STRING, input={"type": "object"}),
    _object("tool_result", ["tool_use_id"], tool_use_id=_STRING, content=_TEXTS_SCHEMA, is_error={"type": "boolean"}),
]
CONVERSATION_SCHEMA = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "properties": {
            "role": {"enum": list(_ROLES)},
            "content": {"anyOf": [_STRING, {"type": "array", "items": {"anyOf": _BLOCK_SCHEMAS}}]},
        },
        "required": ["role", "content"],
    },
}


class _Block(NamedTuple):
    kind: str
    value: Mapping[str, Any]
    path: str

    def text(self, name: str) -> str:
        return expect(self.value.get(name), str, f"{self.path}.{name}", "must be a string")


class _Turn(NamedTuple):
    role: str
    blocks: list[_Block]
    path: str


def conversation_of(messages: Any, system: Any) -> tuple[list[Message], bool]:
    """The messages for a chat template, and whether the last of them is to be continued.

    Raises InvalidRequest or Unsupported with the path of what is wrong.
    """
    turns = _turns(messages)
    made: list[Message] = []
    if instructions := system_of(system):
        made.append({"role": "system", "content": instructions})
    called: dict[str, str] = {}
    for turn in turns:
        _check_results(turn, called)
        if turn.role == "user":
            made += _results(turn, called)
        called = _calls(turn)
        message = _assistant(turn) if turn.role == "assistant" else _plain(turn)
        if message is not None:
            made.append(message)
    _check_last(turns[-1], called)
    if not made:
        raise bad("$.messages", messages, "must say something")
    return made, turns[-1].role == "assistant" and made[-1]["role"] == "assistant"


def system_of(value: Any) -> str:
    """The system prompt's text; without the line that some clients put there for bookkeeping.

    It would be another one for every request, so that no prompt would begin like the one before.
    """
    blocks = _blocks(value, "$.system", "system") if value is not None else []
    texts = [block.text("text") for block in blocks]
    kept = [text for text in texts if not _is_bookkeeping(text)]
    if len(kept) < len(texts):
        log.debug("left out of the system prompt: a client's bookkeeping")
    return "\n".join(kept)


def _is_bookkeeping(text: str) -> bool:
    return text.startswith(_BOOKKEEPING) and "\n" not in text.strip()


def _turns(messages: Any) -> list[_Turn]:
    if not isinstance(messages, list) or not messages:
        raise bad("$.messages", messages, "must be a list of at least one message")
    turns: list[_Turn] = []
    for i, message in enumerate(messages):
        path = f"$.messages[{i}]"
        expect(message, dict, path, "must be an object with role and content")
        role = message.get("role")
        if role not in _ROLES:
            raise bad(f"{path}.role", role, f"must be one of {', '.join(_ROLES)}")
        content = message.get("content")
        blocks = _blocks(content, f"{path}.content", role)
        if not content and not (role == "assistant" and i == len(messages) - 1):
            raise bad(f"{path}.content", content, "must not be empty")
        if turns and turns[-1].role == role:
            turns[-1].blocks.extend(blocks)
        else:
            turns.append(_Turn(role, blocks, path))
    return turns


def _blocks(content: Any, path: str, place: str) -> list[_Block]:
    if isinstance(content, str):
        return [_Block("text", {"text": content}, path)]
    expect(content, list, path, "must be a string or a list of content blocks")
    return [_block(block, f"{path}[{i}]", place) for i, block in enumerate(content)]


def _block(value: Any, path: str, place: str) -> _Block:
    expect(value, dict, path, "must be a content block, an object with a type")
    kind = expect(value.get("type"), str, f"{path}.type", "must name the kind of block")
    if kind in _BLOCKS[place]:
        return _Block(kind, value, path)
    allowed = " or ".join(_BLOCKS[place])
    if any(kind in kinds for kinds in _BLOCKS.values()):
        raise bad(f"{path}.type", kind, f"must be {allowed} here")
    raise Unsupported(
        f"{path}.type is {kind!r:.80}: the model reads text only, here in blocks of type {allowed}.",
        param=f"{path}.type",
    )


def _check_results(turn: _Turn, called: Mapping[str, str]) -> None:
    """Every call has one result, at the beginning of the message that follows it, as Anthropic's API has it."""
    found: set[str] = set()
    is_past = False
    for block in turn.blocks:
        if block.kind != "tool_result":
            is_past = True
            continue
        call_id, path = block.text("tool_use_id"), f"{block.path}.tool_use_id"
        if call_id not in called:
            raise bad(path, call_id, "must be the id of a tool_use block in the message before")
        if call_id in found:
            raise bad(path, call_id, "has a result already: a call has one")
        if is_past:
            raise InvalidRequest(
                f"{block.path} is a tool_result behind other blocks: results must come first in their message.",
                param=block.path,
            )
        found.add(call_id)
    if missing := [call_id for call_id in called if call_id not in found]:
        shown = ", ".join(f"{call_id[:80]!r}" for call_id in missing[:5])
        raise InvalidRequest(
            f"{turn.path} has no tool_result for {shown}: every tool_use needs one in the message that follows it.",
            param=turn.path,
        )


def _check_last(turn: _Turn, called: Mapping[str, str]) -> None:
    if called:
        raise InvalidRequest(
            f"{turn.path} ends the conversation with a tool_use: send its tool_result in a message that follows.",
            param=turn.path,
        )
    if turn.role == "assistant" and turn.blocks and turn.blocks[-1].kind == "text":
        text = turn.blocks[-1].text("text")
        if text != text.rstrip():
            raise bad(
                turn.blocks[-1].path, text[-20:], "must not end with whitespace, where the answer is to go on from it"
            )


def _results(turn: _Turn, called: Mapping[str, str]) -> list[Message]:
    results = []
    for block in turn.blocks:
        if block.kind != "tool_result":
            continue
        content = block.value.get("content")
        parts = _blocks(content, f"{block.path}.content", "result") if content is not None else []
        text = "\n".join(part.text("text") for part in parts)
        is_error = expect(block.value.get("is_error") or False, bool, f"{block.path}.is_error", "must be true or false")
        call_id = block.text("tool_use_id")
        results.append(
            {
                "role": "tool",
                "name": called[call_id],
                "tool_call_id": call_id,
                "content": f"Error: {text}" if is_error else text,
            }
        )
    return results


def _plain(turn: _Turn) -> Message | None:
    texts = [block.text("text") for block in turn.blocks if block.kind == "text"]
    return {"role": turn.role, "content": "\n".join(texts)} if texts else None


def _assistant(turn: _Turn) -> Message | None:
    message: Message = {"role": "assistant", "content": _joined(turn, "text")}
    if reasoning := _joined(turn, "thinking"):
        message["reasoning"] = message["reasoning_content"] = reasoning  # the two names that templates read
    if calls := [_call(block) for block in turn.blocks if block.kind == "tool_use"]:
        message["tool_calls"] = calls
    return message if any(message[name] for name in message if name != "role") else None


def _joined(turn: _Turn, kind: str) -> str:
    """As the model wrote it: a client may hold one reply in several blocks."""
    return "".join(block.text(kind) for block in turn.blocks if block.kind == kind)


def _call(block: _Block) -> dict[str, Any]:
    arguments = expect(block.value.get("input"), dict, f"{block.path}.input", "must be an object")
    function = {"name": block.text("name"), "arguments": arguments}
    return {"id": block.text("id"), "type": "function", "function": function}


def _calls(turn: _Turn) -> dict[str, str]:
    """The names of a turn's calls by their ids."""
    calls: dict[str, str] = {}
    for block in turn.blocks:
        if block.kind == "tool_use":
            call_id = block.text("id")
            if call_id in calls:
                raise bad(f"{block.path}.id", call_id, "must differ from the ids of the other calls")
            calls[call_id] = block.text("name")
    return calls
