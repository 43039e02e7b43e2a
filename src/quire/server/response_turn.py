"""A Responses request becomes a turn, and the response that it begins as."""

import time
from typing import Any

import msgspec
from msgspec import UNSET

from quire.core.errors import InvalidRequest
from quire.core.sampling_params import SamplingParams
from quire.server.rendering import Conversation
from quire.server.response_context import Context, context_of
from quire.server.sampling import response_params
from quire.server.schema.response_input import new_id, referenced
from quire.server.schema.response_settings import flat_tools_of, response_shape_of
from quire.server.schema.responses import (
    FunctionTool,
    ReasoningSettings,
    ResponseObject,
    ResponsesRequest,
    TextSettings,
)
from quire.server.schema.tools import choice_of
from quire.server.service import Service
from quire.server.turn import Turn


class Asked(msgspec.Struct, frozen=True):
    """A request, understood."""

    turn: Turn
    context: Context
    response: ResponseObject
    """As it begins: queued, or in progress."""
    is_stored: bool


async def understand(service: Service, body: ResponsesRequest, request_id: str) -> Asked:
    """Raises InvalidRequest, Unsupported or ModelNotFound."""
    model = service.model(body.model)
    store = service.responses
    if body.background and not (body.store and store.is_on):
        raise InvalidRequest(
            "background can only be used when `store` is true, on a server that keeps responses "
            "(--max-stored-responses): the response could not be found again.",
            param="$.background",
        )
    history = store.history(body.previous_response_id) if body.previous_response_id is not None else []
    referred = {id: item for id in referenced(body.input) if (item := store.item(id)) is not None}
    context = await service.llm.run_blocking(context_of, body.input, body.instructions, history, referred)
    is_stored = body.store and store.is_on
    turn = _turn(service, body, context, request_id)
    return Asked(turn, context, _begun(body, turn.params, model, is_stored), is_stored)


def _turn(service: Service, body: ResponsesRequest, context: Context, request_id: str) -> Turn:
    tools = flat_tools_of(body.tools)
    choice = choice_of(body.tool_choice, is_flat=True)
    params = response_params(body, service.llm.default_params)
    shape = response_shape_of(body.text.format, body.structured_outputs)
    # A reply that must be calls has no text to shape.
    if shape is not None and choice.mode != "required":
        params = params.replace(structured_outputs=shape.wanted)
    return Turn(
        conversation=Conversation(
            messages=context.messages,
            tools=choice.shown(tools),
            chat_template_kwargs=body.chat_template_kwargs,
            reasoning_effort=body.reasoning.effort,
        ),
        params=params,
        request_id=request_id,
        # Which tokens made the text is only known step by step.
        is_streamed=body.stream or body.has_logprobs,
        tool_choice=choice.mode,
        forced_tool=choice.forced,
        has_parallel_calls=body.parallel_tool_calls,
        priority=body.priority,
        cache_salt=body.cache_salt,
    )


def _begun(body: ResponsesRequest, params: SamplingParams, model: str, is_stored: bool) -> ResponseObject:
    return ResponseObject(
        id=new_id("resp"),
        created_at=int(time.time()),
        status="queued" if body.background else "in_progress",
        background=body.background,
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        model=model,
        parallel_tool_calls=body.parallel_tool_calls,
        previous_response_id=body.previous_response_id,
        prompt_cache_key=body.prompt_cache_key,
        prompt_cache_retention=body.prompt_cache_retention,
        reasoning=ReasoningSettings(body.reasoning.effort, body.summary),
        safety_identifier=body.safety_identifier,
        store=is_stored,
        temperature=params.temperature,
        text=TextSettings(body.text.format or {"type": "text"}, body.text.verbosity or UNSET),
        tool_choice=body.tool_choice if body.tool_choice is not None else "auto",
        tools=[_shown(tool) for tool in body.tools or []],
        top_logprobs=body.top_logprobs or 0,
        top_p=params.top_p,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        truncation=body.truncation,
        user=body.user,
        metadata=body.metadata,
    )


def _shown(tool: dict[str, Any]) -> FunctionTool:
    return FunctionTool(
        name=tool["name"],
        description=tool.get("description"),
        parameters=tool.get("parameters"),
        strict=tool.get("strict"),
    )
