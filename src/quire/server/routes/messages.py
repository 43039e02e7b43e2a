"""Anthropic's ``POST /v1/messages`` and ``/v1/messages/count_tokens``."""

from starlette.requests import Request
from starlette.responses import Response

from quire.core.errors import InvalidRequest, ThreadUnsupported, Unsupported
from quire.server.answers.anthropic import MessageAnswer
from quire.server.body import read_json
from quire.server.delivery import deliver
from quire.server.endpoint import Endpoint
from quire.server.exchange import Exchange, begin
from quire.server.faces import ANTHROPIC
from quire.server.foreign_sampling import MESSAGE_PATHS, message_params
from quire.server.rendering import Conversation, count_tokens, effort_of
from quire.server.responses import json_response
from quire.server.sampling import renamed
from quire.server.schema.anthropic import (
    AnthropicMessage,
    CountTokensRequest,
    MessagesRequest,
    StreamEvent,
    ThinkingDisabled,
    ThinkingEnabled,
    TokenCount,
)
from quire.server.schema.anthropic_conversation import conversation_of
from quire.server.schema.anthropic_tools import choice_of, tools_of
from quire.server.service import Service, request_id_of, service_of
from quire.server.turn import Turn


async def messages(request: Request) -> Response:
    service = service_of(request)
    body = await read_json(request, MessagesRequest)
    request_id = request_id_of(request)
    model = service.model(body.model)
    with renamed(MESSAGE_PATHS):
        turn = _turn(service, body, request_id)
    display = getattr(body.thinking, "display", None)
    answer = MessageAnswer(
        id=f"msg_{request_id}", model=model, max_tokens=body.max_tokens, shows_thinking=display != "omitted"
    )
    return await deliver(
        request,
        lambda: _begin(service, turn),
        whole=answer.whole,
        events=answer.events,
        is_streamed=body.stream,
        request_id=request_id,
        face=ANTHROPIC,
    )


async def _begin(service: Service, turn: Turn) -> Exchange:
    with renamed(MESSAGE_PATHS):
        return await begin(service, turn)


async def count_message_tokens(request: Request) -> Response:
    service = service_of(request)
    body = await read_json(request, CountTokensRequest)
    service.model(body.model)
    return json_response(TokenCount(await count_tokens(service, _conversation(body), False)))


def _conversation(body: CountTokensRequest) -> Conversation:
    if body.thread is not None:
        raise ThreadUnsupported(
            "$.thread is not accepted: this server holds no conversations. Send all messages, without thread.",
            param="$.thread",
        )
    turns, is_continued = conversation_of(body.messages, body.system)
    tools = tools_of(body.tools)
    mode, _ = choice_of(body.tool_choice, tools)
    effort = body.output_config.effort
    return Conversation(
        messages=turns,
        tools=tools if mode != "none" else (),
        continue_final_message=is_continued,
        chat_template_kwargs=body.chat_template_kwargs,
        reasoning_effort=effort_of(effort),
        is_thinking=None if body.thinking is None else not isinstance(body.thinking, ThinkingDisabled),
    )


def _turn(service: Service, body: MessagesRequest, request_id: str) -> Turn:
    conversation = _conversation(body)
    _check_together(body, conversation)
    mode, forced = choice_of(body.tool_choice, conversation.tools)
    return Turn(
        conversation=conversation,
        params=message_params(body, service.llm.default_params, service.llm.info.max_model_len),
        request_id=request_id,
        is_streamed=body.stream,
        tool_choice=mode,
        forced_tool=forced,
        has_parallel_calls=body.tool_choice is None or not body.tool_choice.disable_parallel_tool_use,
        cache_salt=body.cache_salt,
    )


def _check_together(body: MessagesRequest, conversation: Conversation) -> None:
    thinking = body.thinking
    if isinstance(thinking, ThinkingEnabled) and thinking.budget_tokens >= body.max_tokens:
        raise InvalidRequest(
            f"$.thinking.budget_tokens is {thinking.budget_tokens}: it must be less than max_tokens, "
            f"{body.max_tokens}.",
            param="$.thinking.budget_tokens",
        )
    if body.format is not None and conversation.continue_final_message:
        raise Unsupported(
            "$.output_config.format cannot be kept by an answer that an assistant's message has begun: end the "
            "conversation with a user's message.",
            param="$.output_config.format",
        )


ENDPOINTS = (
    Endpoint(
        path="/v1/messages",
        methods=("POST",),
        handler=messages,
        summary="The next message of a conversation, as Anthropic's API has it",
        body=MessagesRequest,
        answer=AnthropicMessage,
        chunk=StreamEvent,
        errors=(404, 529),
    ),
    Endpoint(
        path="/v1/messages/count_tokens",
        methods=("POST",),
        handler=count_message_tokens,
        summary="How many tokens a conversation is",
        body=CountTokensRequest,
        answer=TokenCount,
        errors=(404, 529),
    ),
)
