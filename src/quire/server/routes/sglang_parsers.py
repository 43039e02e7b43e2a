"""SGLang's routes that read a reply which was generated elsewhere: its calls of tools, its reasoning."""

from starlette.requests import Request
from starlette.responses import Response

from quire.core.errors import ConfigError, InvalidRequest
from quire.server.body import read_json
from quire.server.endpoint import Endpoint
from quire.server.responses import json_response
from quire.server.schema.sglang import (
    ParsedCall,
    ParsedFunctionCalls,
    ParseFunctionCallRequest,
    SeparatedReasoning,
    SeparateReasoningRequest,
)
from quire.server.schema.tools import tools_of
from quire.server.service import Service, service_of
from quire.text.dialects.dialect import Parser
from quire.text.dialects.events import Reply
from quire.text.dialects.plain import PlainParser
from quire.text.dialects.registry import Dialects, choose


async def parse_function_call(request: Request) -> Response:
    service = service_of(request)
    body = await read_json(request, ParseFunctionCallRequest)
    tools = tools_of(body.tools)
    dialect = _dialects(service, "tool_call_parser", body.tool_call_parser).tools
    if dialect is None:
        raise InvalidRequest(
            "The served model has no known way to call tools: name one in tool_call_parser.",
            param="$.tool_call_parser",
        )
    reply = await service.llm.run_blocking(_read, dialect.parser(tools), body.text)
    places = {tool.name: i for i, tool in enumerate(tools)}
    calls = [ParsedCall(places.get(call.name, -1), call.name, call.arguments) for call in reply.calls]
    return json_response(ParsedFunctionCalls(reply.content, calls))


async def separate_reasoning(request: Request) -> Response:
    service = service_of(request)
    body = await read_json(request, SeparateReasoningRequest)
    dialect = _dialects(service, "reasoning_parser", body.reasoning_parser).reasoning
    if dialect is None:
        raise InvalidRequest(
            "The served model has no known way to mark its reasoning: name one in reasoning_parser.",
            param="$.reasoning_parser",
        )
    parser = dialect.parser(dialect.is_open(""), PlainParser())
    reply = await service.llm.run_blocking(_read, parser, body.text)
    return json_response(SeparatedReasoning(reply.reasoning or "", reply.content))


def _dialects(service: Service, field: str, name: str) -> Dialects:
    if name == "auto":
        return service.dialects
    try:
        return choose(**{"tool_call_parser": "none", "reasoning_parser": "none", field: name}, template=None)
    except ConfigError as error:
        raise InvalidRequest(error.message.replace(f"--{field.replace('_', '-')}", field), param=f"$.{field}") from None


def _read(parser: Parser, text: str) -> Reply:
    return Reply.of([*parser.push(text), *parser.finish()])


ENDPOINTS = (
    Endpoint(
        path="/parse_function_call",
        methods=("POST",),
        handler=parse_function_call,
        summary="The calls of tools in a reply",
        body=ParseFunctionCallRequest,
        answer=ParsedFunctionCalls,
    ),
    Endpoint(
        path="/separate_reasoning",
        methods=("POST",),
        handler=separate_reasoning,
        summary="The reasoning in a reply, and the rest",
        body=SeparateReasoningRequest,
        answer=SeparatedReasoning,
    ),
)
