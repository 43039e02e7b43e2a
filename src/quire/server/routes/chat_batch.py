"""``POST /v1/chat/completions/batch``: vLLM's route for many conversations in one request, answered as many choices.

Law: all conversations are begun, or none; what one answer has no place for (streams, several replies each) is refused.
"""

from collections.abc import Sequence

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from quire.core.errors import InvalidRequest, Unsupported
from quire.server.body import read_json
from quire.server.disconnect import while_connected
from quire.server.endpoint import Endpoint
from quire.server.exchange import Exchange
from quire.server.responses import json_response
from quire.server.routes.chat import answer_of, begin_chat, heading_of, turn_of
from quire.server.sampling import renamed
from quire.server.schema.chat import BatchChatRequest, ChatCompletion
from quire.server.schema.common import Usage
from quire.server.schema.faults import bad
from quire.server.service import Service, request_id_of, service_of
from quire.server.turn import Turn


async def chat_batch(request: Request) -> Response:
    service = service_of(request)
    body = service.with_defaults(await read_json(request, BatchChatRequest))
    _check(body, service.config.max_prompts)
    request_id = request_id_of(request, body.request_id)
    heading = heading_of(service, body, request_id)
    bodies = [body.model_copy(update={"messages": messages}) for messages in body.messages]
    turns = [_turn(service, one, i, f"{request_id}-{i}") for i, one in enumerate(bodies)]

    async def whole() -> ChatCompletion:
        exchanges: list[Exchange] = []
        try:
            for i, (one, turn) in enumerate(zip(bodies, turns, strict=True)):
                with renamed({"$.messages": f"$.messages[{i}]"}):
                    exchanges.append(await begin_chat(service, one, turn))
            answers = [
                await answer_of(service, one, heading, turn).whole(exchange)
                for one, turn, exchange in zip(bodies, turns, exchanges, strict=True)
            ]
        finally:
            for exchange in exchanges:
                exchange.close()
        return _together(answers)

    return json_response(await while_connected(request.receive, whole()))


def _check(body: BatchChatRequest, max_prompts: int) -> None:
    if not isinstance(body.messages, list) or not body.messages:
        raise bad("$.messages", body.messages, "must be a list of conversations")
    if len(body.messages) > max_prompts:
        raise InvalidRequest(
            f"$.messages holds {len(body.messages)} conversations: at most {max_prompts} fit in one request "
            "(--max-prompts).",
            param="$.messages",
        )
    for name, is_given in (
        ("stream", body.stream),
        ("n", body.n > 1),
        ("tools", bool(body.tools)),
        ("use_beam_search", body.use_beam_search),
        ("prompt_logprobs", body.prompt_logprobs is not None),
        ("timings_per_token", body.timings_per_token),
    ):
        if is_given:
            raise Unsupported(
                f"$.{name} is not accepted for a batch of conversations: leave it out, or send each as a request of "
                "its own to /v1/chat/completions.",
                param=f"$.{name}",
            )


def _turn(service: Service, body: BatchChatRequest, index: int, request_id: str) -> Turn:
    with renamed({"$.messages": f"$.messages[{index}]"}):
        return turn_of(service, body, request_id)


def _together(answers: Sequence[ChatCompletion]) -> ChatCompletion:
    """One answer, whose choices are those of all, in the order of their conversations."""
    choices = [
        msgspec.structs.replace(choice, index=i) for i, answer in enumerate(answers) for choice in answer.choices
    ]
    usages = [answer.usage for answer in answers]
    usage = Usage.count(
        sum(one.prompt_tokens for one in usages),
        sum(one.completion_tokens for one in usages),
        sum(one.prompt_tokens_details.cached_tokens for one in usages),
    )
    return msgspec.structs.replace(answers[0], choices=choices, usage=usage, prompt_token_ids=None, metrics=UNSET)


ENDPOINTS = (
    Endpoint(
        path="/v1/chat/completions/batch",
        methods=("POST",),
        handler=chat_batch,
        summary="The next messages of many conversations",
        body=BatchChatRequest,
        answer=ChatCompletion,
        errors=(404,),
    ),
)
