"""JSON answers, and errors in the shape of the API they belong to.

Law: nothing but a QuireError's own message ever reaches a client; every other exception becomes one fixed sentence.
"""

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Scope

from quire.core.errors import QuireError, RequestTimeout, RequestTooLarge, Unauthorized
from quire.server.faces import Face, encode, face_of


class InternalError(QuireError):
    """Stands for our own mistakes, which are logged and never shown."""

    code = "internal_error"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"The server failed while processing your request. Its log has more, under {request_id}.")


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Anything msgspec can encode, as a response."""
    return Response(encode(value), status, headers, media_type="application/json")


def error_response(error: QuireError, scope: Scope, headers: Mapping[str, str] | None = None) -> Response:
    """The error's body with its status, and the headers that go with it, as clients of the scope's path expect it."""
    face = face_for(scope)
    extra = dict(headers or {})
    if error.retry_after_s is not None:
        extra["retry-after"] = str(max(1, round(error.retry_after_s)))
    if isinstance(error, Unauthorized):
        extra["www-authenticate"] = "Bearer"
    if isinstance(error, RequestTooLarge | RequestTimeout):
        extra["connection"] = "close"  # the rest of the request is not worth reading
    return json_response(face.error_body(error), face.status(error), extra)


def face_for(scope: Scope) -> Face:
    """The family of APIs that a request is made to."""
    return face_of(routed_path(scope), scope["headers"])


def routed_path(scope: Scope) -> str:
    """What the router matches: the path without the prefix of a proxy."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path
