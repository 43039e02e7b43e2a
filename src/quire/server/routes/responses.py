"""``POST /v1/responses`` and ``/v1/responses/input_tokens``."""

from starlette.requests import Request
from starlette.responses import Response

from quire.core.errors import PromptTooLong
from quire.server.answers.responses import ResponseAnswer
from quire.server.body import read_json
from quire.server.delivery import deliver
from quire.server.disconnect import while_connected
from quire.server.endpoint import Endpoint
from quire.server.exchange import begin
from quire.server.faces import RESPONSES
from quire.server.rendering import count_tokens
from quire.server.response_runs import BackgroundRun, Run, event_stream
from quire.server.response_truncation import shortened
from quire.server.response_turn import Asked, understand
from quire.server.responses import json_response
from quire.server.sampling import response_paths
from quire.server.schema.response_events import ResponseEvent
from quire.server.schema.responses import InputTokens, ResponseObject, ResponsesRequest
from quire.server.service import Service, request_id_of, service_of


async def create_response(request: Request) -> Response:
    service = service_of(request)
    body = await read_json(request, ResponsesRequest)
    request_id = request_id_of(request, body.request_id)
    asked = await understand(service, body, request_id)
    if body.background:
        return await _in_background(request, service, body, asked)
    return await deliver(
        request,
        lambda: _begin(service, body, asked),
        whole=Run.whole,
        events=lambda run: run,
        is_streamed=body.stream,
        request_id=request_id,
        face=RESPONSES,
    )


async def _in_background(request: Request, service: Service, body: ResponsesRequest, asked: Asked) -> Response:
    run = await while_connected(request.receive, _begin(service, body, asked))
    response = run.response
    background = BackgroundRun(run, service.responses, has_events=body.stream)
    if body.stream:
        return event_stream(service, background.follow(), lambda: None, asked.turn.request_id)
    return json_response(response)


async def _begin(service: Service, body: ResponsesRequest, asked: Asked) -> Run:
    turn = asked.turn
    with response_paths(body):
        try:
            exchange = await begin(service, turn)
        except PromptTooLong as refusal:
            if body.truncation != "auto" or refusal.param != "$.prompt":
                raise
            exchange = await begin(service, await shortened(service, turn, refusal))
    return Run(
        ResponseAnswer(body, asked.response, service.llm.tokenizer, has_events=body.stream),
        exchange,
        asked.context.own,
        store=service.responses if asked.is_stored else None,
        is_stepwise=turn.is_streamed,
        request_id=turn.request_id,
    )


async def count_input_tokens(request: Request) -> Response:
    """How long the prompt of such a request would be; nothing is generated."""
    service = service_of(request)
    body = await read_json(request, ResponsesRequest)
    asked = await understand(service, body, request_id_of(request, body.request_id))
    with response_paths(body):
        count = await count_tokens(service, asked.turn.conversation, asked.turn.add_special_tokens)
    return json_response(InputTokens(input_tokens=count))


CREATE_RESPONSE = Endpoint(
    path="/v1/responses",
    methods=("POST",),
    handler=create_response,
    summary="The next items of a conversation",
    body=ResponsesRequest,
    answer=ResponseObject,
    chunk=ResponseEvent,
    errors=(404,),
)
COUNT_INPUT_TOKENS = Endpoint(
    path="/v1/responses/input_tokens",
    methods=("POST",),
    handler=count_input_tokens,
    summary="How many tokens a response's input has",
    body=ResponsesRequest,
    answer=InputTokens,
    errors=(404,),
)
ENDPOINTS = (CREATE_RESPONSE, COUNT_INPUT_TOKENS)
