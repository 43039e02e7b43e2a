"""A conversation becomes a prompt, through the model's chat template and off the event loop."""

from typing import TYPE_CHECKING, Protocol

from quire.core.errors import InvalidRequest
from quire.server.schema.common import JsonObject
from quire.server.schema.messages import Message

if TYPE_CHECKING:
    from quire.engine.async_llm import AsyncLLM

_OURS = frozenset(
    ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize")
)


class Conversation(Protocol):
    """The fields that chat and tokenize requests share."""

    add_generation_prompt: bool | None
    continue_final_message: bool
    documents: list[JsonObject] | None
    chat_template_kwargs: JsonObject
    reasoning_effort: str | None


async def render(llm: "AsyncLLM", messages: list[Message], options: Conversation) -> str:
    """The prompt's text. Raises InvalidRequest for what the template refuses, or when the model has none."""
    if llm.chat_template is None:
        raise InvalidRequest(
            "The model has no chat template, so it takes no messages: use /v1/completions, or start the server with "
            "--chat-template.",
            param="$.messages",
        )
    if options.continue_final_message and options.add_generation_prompt:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt are both true: a message is either continued or begun.",
            param="$.continue_final_message",
        )
    for name in options.chat_template_kwargs:
        if name in _OURS:
            raise InvalidRequest(
                f"chat_template_kwargs must not hold {name}: it is set by a field of the request or not at all.",
                param=f"$.chat_template_kwargs.{name}",
            )
    extra = dict(options.chat_template_kwargs)
    if options.reasoning_effort is not None:
        extra.setdefault("reasoning_effort", options.reasoning_effort)
    begins = options.add_generation_prompt
    template = llm.chat_template

    def apply() -> str:
        return template.render(
            messages,
            documents=options.documents,
            add_generation_prompt=not options.continue_final_message if begins is None else begins,
            continue_final_message=options.continue_final_message,
            **extra,
        )

    return await llm.run_blocking(apply)
