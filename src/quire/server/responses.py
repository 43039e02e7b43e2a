"""JSON answers, and errors in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``.

Law: nothing but a QuireError's own message ever reaches a client; every other exception becomes one fixed sentence.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from quire.core.errors import QuireError, RequestTimeout, RequestTooLarge, Unauthorized
from quire.server.schema.common import Error, ErrorBody

encode = msgspec.json.Encoder().encode


class InternalError(QuireError):
    """Stands for our own mistakes, which are logged and never shown."""

    code = "internal_error"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"The server failed while processing your request. Its log has more, under {request_id}.")


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Anything msgspec can encode, as a response."""
    return Response(encode(value), status, headers, media_type="application/json")


def error_body(error: QuireError) -> ErrorBody:
    return ErrorBody(error=Error(message=error.message, type=error.kind, param=error.param, code=error.code))


def error_response(error: QuireError, headers: Mapping[str, str] | None = None) -> Response:
    """The error's body with its status, and the headers that go with it."""
    extra = dict(headers or {})
    if error.retry_after_s is not None:
        extra["retry-after"] = str(max(1, round(error.retry_after_s)))
    if isinstance(error, Unauthorized):
        extra["www-authenticate"] = "Bearer"
    if isinstance(error, RequestTooLarge | RequestTimeout):
        extra["connection"] = "close"  # the rest of the request is not worth reading
    return json_response(error_body(error), error.status, extra)
