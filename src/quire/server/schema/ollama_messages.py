"""Ollama's messages: their own names for things, made OpenAI's."""

from typing import Any

from quire.core.errors import Unsupported
from quire.server.schema.faults import expect
from quire.server.schema.messages import Message, messages_of

_NAMES = {"thinking": "reasoning", "tool_name": "name"}


def conversation_of(value: Any) -> tuple[list[Message], bool]:
    """The messages for a chat template, and whether the last of them, the assistant's, is to be continued.

    Raises InvalidRequest or Unsupported with the path of what is wrong.
    """
    if not expect(value if value is not None else [], list, "$.messages", "must be a list of messages"):
        return [], False
    messages = messages_of([_renamed(message, f"$.messages[{i}]") for i, message in enumerate(value)])
    last = messages[-1]
    return messages, last["role"] == "assistant" and bool(last["content"]) and "tool_calls" not in last


def _renamed(message: Any, path: str) -> dict[str, Any]:
    expect(message, dict, path, "must be an object with role and content")
    if message.get("images"):
        raise Unsupported(f"{path}.images is not accepted: the model reads text only.", param=f"{path}.images")
    renamed = {_NAMES.get(name, name): value for name, value in message.items() if name != "images"}
    renamed["content"] = message.get("content") or ""
    if isinstance(role := message.get("role"), str):
        renamed["role"] = role.lower()
    return renamed
