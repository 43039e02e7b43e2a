"""In whose shape an error is told: OpenAI's, or that of the family of APIs that a path belongs to.

Decided by the path, and by a header where two families share one: so it holds for errors before any route is found, and
after a stream has begun.
"""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import UNSET

from quire.core.errors import Overloaded, PromptTooLong, QuireError, ThreadUnsupported
from quire.server.schema.anthropic import AnthropicError, AnthropicErrorBody
from quire.server.schema.common import Error, ErrorBody
from quire.server.schema.llamacpp import LlamaCppError, LlamaCppErrorBody
from quire.server.schema.ollama import OllamaError

encode = msgspec.json.Encoder().encode


class Face(msgspec.Struct, frozen=True, kw_only=True):
    """How one family of APIs tells errors, and what its streams are made of."""

    name: str
    error_body: Callable[[QuireError], Any]
    error_type: Any
    """The msgspec type of an error's body, for the published schema."""
    status: Callable[[QuireError], int] = lambda error: error.status
    request_id_headers: tuple[str, ...] = ("x-request-id",)
    """Under which names a request's id goes back."""
    stream_type: str = "text/event-stream"
    keep_alive: bytes = b": keep-alive\n\n"
    frame: Callable[[bytes], bytes] = lambda body: b"data: " + body + b"\n\n"
    """An error's body as an event."""
    end: bytes = b""
    """What the last bytes of every stream are."""


def _openai_error(error: QuireError) -> ErrorBody:
    return ErrorBody(error=Error(message=error.message, type=error.kind, param=error.param, code=error.code))


def _located(error: QuireError) -> str:
    """The message with the path of the value at fault, for shapes that have no other place for it."""
    return error.message if error.param is None or error.param in error.message else f"{error.param}: {error.message}"


def _error_event(body: bytes) -> bytes:
    return b"event: error\ndata: " + body + b"\n\n"


OPENAI = Face(name="openai", error_body=_openai_error, error_type=ErrorBody, end=b"data: [DONE]\n\n")

RESPONSES = Face(
    name="responses",
    error_body=_openai_error,
    error_type=ErrorBody,
    frame=_error_event,
)
"""OpenAI's newer API: its streams end with an event that says how, and nothing behind it."""

_ANTHROPIC_OVERLOADED = 529
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    431: "request_too_large",
    _ANTHROPIC_OVERLOADED: "overloaded_error",
}
"""Of an error's status; another is a fault of the request below 500, and one of the server from there."""


def _anthropic_status(error: QuireError) -> int:
    return _ANTHROPIC_OVERLOADED if isinstance(error, Overloaded) else error.status


def _anthropic_error(error: QuireError) -> AnthropicErrorBody:
    status = _anthropic_status(error)
    kind = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    if isinstance(error, ThreadUnsupported):
        details = {"error_code": error.code, "unsupported": ["thread"]}
        return AnthropicErrorBody(AnthropicError(kind, error.message, details))
    message = _located(error)
    if isinstance(error, PromptTooLong):  # clients look for these words, and shorten their conversation
        most = error.max_model_len - 1
        counts = f"{error.num_prompt_tokens} tokens > {most} maximum. " if error.num_prompt_tokens else ""
        message = f"prompt is too long: {counts}{message}"
    return AnthropicErrorBody(AnthropicError(kind, message))


ANTHROPIC = Face(
    name="anthropic",
    error_body=_anthropic_error,
    error_type=AnthropicErrorBody,
    status=_anthropic_status,
    request_id_headers=("x-request-id", "request-id"),
    keep_alive=b'event: ping\ndata: {"type":"ping"}\n\n',
    frame=_error_event,
)

OLLAMA = Face(
    name="ollama",
    error_body=lambda error: OllamaError(_located(error)),
    error_type=OllamaError,
    stream_type="application/x-ndjson",
    keep_alive=b"",  # each line is a record
    frame=lambda body: body + b"\n",
)

_LLAMACPP_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    503: "unavailable_error",
}
"""Of an error's status; another is a fault of the request below 500, and one of the server from there."""


def _llamacpp_error(error: QuireError) -> LlamaCppErrorBody:
    kind = _LLAMACPP_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    if not isinstance(error, PromptTooLong):
        return LlamaCppErrorBody(LlamaCppError(error.status, error.message, kind, error.param))
    return LlamaCppErrorBody(
        LlamaCppError(
            error.status,
            f"The request exceeds the available context size: {error.message}",
            "exceed_context_size_error",
            error.param,
            n_prompt_tokens=error.num_prompt_tokens or UNSET,
            n_ctx=error.max_model_len or UNSET,
        )
    )


LLAMACPP = Face(name="llamacpp", error_body=_llamacpp_error, error_type=LlamaCppErrorBody)

_LLAMACPP_PATHS = ("/completion", "/completions", "/infill", "/apply-template", "/props", "/slots")
_BY_PREFIX: tuple[tuple[str, Face], ...] = (
    ("/v1/messages", ANTHROPIC),
    ("/v1/complete", ANTHROPIC),
    ("/v1/responses", RESPONSES),
    ("/responses", RESPONSES),
    ("/api", OLLAMA),
    *((path, LLAMACPP) for path in _LLAMACPP_PATHS),
)


_SHARED_PREFIXES = ("/v1/models", "/v1/files", "/v1/skills")
"""OpenAI's and Anthropic's paths both, whether or not anything is there."""
_ANTHROPIC_HEADER = b"anthropic-version"


def face_of(path: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> Face:
    """The family that a path belongs to, as the router sees it; ``headers`` as ASGI has them."""
    for prefix, face in _BY_PREFIX:
        if _is_under(path, prefix):
            return face
    is_anthropic = _is_shared(path) and any(name == _ANTHROPIC_HEADER for name, _ in headers)
    return ANTHROPIC if is_anthropic else OPENAI


def faces_of(path: str) -> tuple[Face, ...]:
    """All families in whose shape a path may answer."""
    return (OPENAI, ANTHROPIC) if _is_shared(path) else (face_of(path),)


def _is_shared(path: str) -> bool:
    return any(_is_under(path, prefix) for prefix in _SHARED_PREFIXES)


def _is_under(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix + "/")
