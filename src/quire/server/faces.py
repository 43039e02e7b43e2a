"""In whose shape an error is told: OpenAI's, or that of the family of APIs that a path belongs to.

Decided by the path alone, so that it holds for errors before any route is found, and after a stream has begun.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from quire.core.errors import QuireError
from quire.server.schema.common import Error, ErrorBody

encode = msgspec.json.Encoder().encode


class Face(msgspec.Struct, frozen=True, kw_only=True):
    """How one family of APIs tells errors, and what its streams are made of."""

    name: str
    error_body: Callable[[QuireError], Any]
    error_type: Any
    """The msgspec type of an error's body, for the published schema."""
    status: Callable[[QuireError], int] = lambda error: error.status
    stream_type: str = "text/event-stream"
    keep_alive: bytes = b": keep-alive\n\n"
    frame: Callable[[bytes], bytes] = lambda body: b"data: " + body + b"\n\n"
    """An error's body as an event."""
    end: bytes = b""
    """What the last bytes of every stream are."""


def _openai_error(error: QuireError) -> ErrorBody:
    return ErrorBody(error=Error(message=error.message, type=error.kind, param=error.param, code=error.code))


OPENAI = Face(name="openai", error_body=_openai_error, error_type=ErrorBody, end=b"data: [DONE]\n\n")

_BY_PREFIX: tuple[tuple[str, Face], ...] = ()


def face_of(path: str) -> Face:
    """The family that a path belongs to, as the router sees it."""
    return next((face for prefix, face in _BY_PREFIX if path == prefix or path.startswith(prefix + "/")), OPENAI)
