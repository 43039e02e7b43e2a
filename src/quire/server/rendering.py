"""A conversation becomes a prompt, through a chat template and off the event loop."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from quire.core.errors import InvalidRequest, Unsupported, UnsupportedModel
from quire.server.schema.common import JsonObject
from quire.server.schema.messages import Message
from quire.server.service import Service
from quire.text.chat import ChatTemplate
from quire.text.dialects.dialect import Tool
from quire.text.dialects.taught import taught

_OURS = frozenset(
    ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize")
)
_THINKING_SWITCHES = ("enable_thinking", "thinking")
"""Variables by which templates let one say whether to reason."""
_EFFORTS = {"xhigh": "high", "max": "high"}
"""Efforts that templates do not know."""


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """What a prompt is made of.

    ``chat_template``: one that the request brought. ``is_thinking``: whether the model should reason first, where its
    template lets one say; None leaves that to the template.
    """

    messages: list[Message]
    tools: Sequence[Tool] = ()
    documents: list[JsonObject] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: Mapping[str, Any] = {}
    reasoning_effort: str | None = None
    is_thinking: bool | None = None


def effort_of(given: str | None) -> str | None:
    """What a template is told of an effort that another API than OpenAI's names."""
    return None if given is None else _EFFORTS.get(given, given)


async def render(service: Service, conversation: Conversation) -> str:
    """The prompt's text. Raises InvalidRequest for what the template refuses, or when there is none."""
    template = _template(service, conversation)
    if conversation.continue_final_message and conversation.add_generation_prompt:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt are both true: a message is either continued or begun.",
            param="$.continue_final_message",
        )
    for name in conversation.chat_template_kwargs:
        if name in _OURS:
            raise InvalidRequest(
                f"chat_template_kwargs must not hold {name}: it is set by a field of the request or not at all.",
                param=f"$.chat_template_kwargs.{name}",
            )
    return await service.llm.run_blocking(_apply, template, conversation, service.config.default_chat_template_kwargs)


async def count_tokens(service: Service, conversation: Conversation, add_special_tokens: bool) -> int:
    """How long the prompt is. Raises InvalidRequest as ``render`` does."""
    prompt = await render(service, conversation)
    return len(await service.llm.run_blocking(service.llm.tokenizer.encode, prompt, add_special_tokens))


def _template(service: Service, conversation: Conversation) -> ChatTemplate:
    if conversation.chat_template is not None:
        if not service.config.trust_request_chat_template:
            raise Unsupported(
                "chat_template is not accepted: a request may bring its own template only if the server was started "
                "with --trust-request-chat-template.",
                param="$.chat_template",
            )
        return service.request_template(conversation.chat_template)
    if service.llm.chat_template is None:
        raise InvalidRequest(
            "The model has no chat template, so it takes no messages: use /v1/completions, or start the server with "
            "--chat-template.",
            param="$.messages",
        )
    return service.llm.chat_template


def _apply(template: ChatTemplate, conversation: Conversation, defaults: Mapping[str, Any]) -> str:
    try:
        variables = template.variables
    except UnsupportedModel as error:
        raise InvalidRequest(error.message, param="$.chat_template") from None
    messages, tools = conversation.messages, conversation.tools
    if "tools" not in variables:
        messages, tools = taught(messages, tools), ()
    begins = conversation.add_generation_prompt
    return template.render(
        messages,
        tools=[tool.for_template() for tool in tools] or None,
        documents=conversation.documents,
        add_generation_prompt=not conversation.continue_final_message if begins is None else begins,
        continue_final_message=conversation.continue_final_message,
        variables={**defaults, **_switches(conversation, variables), **conversation.chat_template_kwargs},
    )


def _switches(conversation: Conversation, variables: frozenset[str]) -> dict[str, Any]:
    """The template's variables for what a request says of reasoning."""
    values: dict[str, Any] = {}
    if conversation.reasoning_effort is not None:
        values["reasoning_effort"] = conversation.reasoning_effort
    thinks = conversation.is_thinking
    if thinks is None and conversation.reasoning_effort == "none":
        thinks = False
    if thinks is not None:
        values |= {name: thinks for name in _THINKING_SWITCHES if name in variables}
    return values
