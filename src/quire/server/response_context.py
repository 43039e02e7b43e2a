"""What a response answers: the conversation of stored responses, then the request's own input, as messages.

Items of one turn of the assistant (reasoning, text, calls) become one message, as chat templates expect it. Law: every
item is in a message, or an error says why not.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from quire.core.errors import InvalidRequest
from quire.server.response_store import Kept
from quire.server.schema.messages import Message, arguments_of
from quire.server.schema.response_input import Item, items_of


class Context(msgspec.Struct, frozen=True):
    """``own``: the request's own items, which will be stored with its response."""

    messages: list[Message]
    own: list[Item]


def context_of(value: Any, instructions: str | None, history: Sequence[Kept], referred: Mapping[str, bytes]) -> Context:
    """Understand ``$.input``. ``history``: the responses that it continues, oldest first.

    ``referred``: stored items, still encoded, by their ids. Raises InvalidRequest or Unsupported.
    """
    earlier = [msgspec.json.decode(item) for kept in history for _, item in kept.items]
    own = items_of(value, {id: msgspec.json.decode(item) for id, item in referred.items()})
    if not own and not earlier:
        raise InvalidRequest(
            "input holds nothing: send a string, or a list of at least one item.",
            param="$.input",
        )
    _check_outputs(earlier, own)
    messages = _messages(earlier + own)
    return Context(_instructed(instructions, messages), own)


def _check_outputs(earlier: Iterable[Item], own: Sequence[Item]) -> None:
    """A result whose call is not in the conversation would be read as if it came from nowhere."""
    called = {item["call_id"] for item in earlier if item["type"] == "function_call"}
    for i, item in enumerate(own):
        if item["type"] == "function_call":
            called.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in called:
            raise InvalidRequest(
                f"$.input[{i}].call_id is {item['call_id']!r:.80}: no function_call with this call_id comes before it. "
                "Send the call too, or the previous_response_id of the response that made it.",
                param=f"$.input[{i}].call_id",
            )


def _instructed(instructions: str | None, messages: list[Message]) -> list[Message]:
    """Many templates take one system message, at the beginning: what stands there goes on where instructions end."""
    if instructions is None:
        return messages
    begin = 0
    while begin < len(messages) and messages[begin]["role"] == "system":
        begin += 1
    said = [instructions, *(message["content"] for message in messages[:begin])]
    return [{"role": "system", "content": "\n\n".join(said)}, *messages[begin:]]


def _messages(items: Iterable[Item]) -> list[Message]:
    turns = _Turns()
    for item in items:
        kind = item["type"]
        if kind == "reasoning":
            turns.reasoning(_reasoning_text(item))
        elif kind == "function_call":
            turns.call(_call(item))
        elif kind == "function_call_output":
            output = item["output"]
            text = output if isinstance(output, str) else _joined(output)
            turns.add({"role": "tool", "tool_call_id": item["call_id"], "content": text})
        elif item["role"] == "assistant":
            turns.text(_joined(item["content"]))
        else:
            role = "system" if item["role"] == "developer" else item["role"]
            turns.add({"role": role, "content": _joined(item["content"])})
    return turns.messages


class _Turns:
    """Gathers an assistant's items until something else, or the beginning of another of its turns, comes."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._open: Message | None = None

    def add(self, message: Message) -> None:
        self.messages.append(message)
        self._open = None

    def reasoning(self, text: str) -> None:
        if not text:
            return
        message = self._assistant(is_new=self._has_said())
        message["reasoning"] = message["reasoning_content"] = "\n".join(filter(None, (message.get("reasoning"), text)))

    def text(self, text: str) -> None:
        self._assistant(is_new=self._has_said())["content"] = text

    def call(self, call: dict[str, Any]) -> None:
        self._assistant(is_new=False).setdefault("tool_calls", []).append(call)

    def _has_said(self) -> bool:
        return self._open is not None and bool(self._open["content"] or self._open.get("tool_calls"))

    def _assistant(self, is_new: bool) -> Message:
        if self._open is None or is_new:
            message: Message = {"role": "assistant", "content": ""}
            self.add(message)
            self._open = message
        return self._open


def _call(item: Item) -> dict[str, Any]:
    if item["status"] == "incomplete":
        raise InvalidRequest(
            f"The call {item['call_id']!r:.80} of {item['name']!r:.80} was cut off: a conversation cannot go on behind "
            "it. Leave it out, or continue an earlier response.",
            param="$.input",
        )
    function = {"name": item["name"], "arguments": arguments_of(item["arguments"], "$.input")}
    return {"id": item["call_id"], "type": "function", "function": function}


def _reasoning_text(item: Item) -> str:
    """Its own words, else what there is of a summary."""
    return "\n".join(part["text"] for part in item.get("content") or item.get("summary") or [])


def _joined(parts: Iterable[Item]) -> str:
    return "\n".join(part["refusal"] if part["type"] == "refusal" else part["text"] for part in parts)
