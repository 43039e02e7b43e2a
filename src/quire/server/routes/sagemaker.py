"""SageMaker's ``/invocations``: hands a request to the API that its body is of. (``/ping`` is in ``health``.)"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from quire.core.errors import InvalidRequest
from quire.server.body import read_json
from quire.server.endpoint import Endpoint, Handler
from quire.server.routes.chat import chat_completions
from quire.server.routes.completions import completions
from quire.server.routes.sglang import generate
from quire.server.schema.sagemaker import Invocation

_HANDLERS: tuple[tuple[str, Handler], ...] = (
    ("messages", chat_completions),
    ("prompt", completions),
    ("text", generate),
    ("input_ids", generate),
)


async def invocations(request: Request) -> Response:
    body = await read_json(request, Invocation)
    for field, handler in _HANDLERS:
        if getattr(body, field) is not None:
            return await handler(request)
    raise InvalidRequest(
        "The body has none of messages (chat), prompt (completion), text or input_ids (generation): give one.",
        param="$",
    )


ENDPOINTS = (
    Endpoint(
        path="/invocations",
        methods=("POST",),
        handler=invocations,
        summary="A conversation, a completion or a generation, by what the body holds",
        body=Invocation,
        answer=(dict[str, Any], list[dict[str, Any]]),
        chunk=dict[str, Any],
        errors=(404,),
    ),
)
