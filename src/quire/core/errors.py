"""Everything that can go wrong because of a user, a file or a machine.

The only place that knows HTTP status codes and OpenAI's error types. A message carries the path of the offending
value (``param``, as a JSON path), the value, the limit, and what to do about it. Our own mistakes are ``assert``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from quire.core.outputs import RequestOutput


class QuireError(Exception):
    """Base of the tree. ``status``, ``kind`` and ``code`` are what an HTTP client sees.

    ``param`` is a JSON path such as ``$.messages[2].content``, or None when no single value is at fault.
    """

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


# --- what a client sent -------------------------------------------------------------------------------------------


class InvalidRequest(QuireError, ValueError):
    """A value in a request is malformed or out of range."""

    status = 400
    kind = "invalid_request_error"
    code = "invalid_value"


class PromptTooLong(InvalidRequest):
    """Prompt, or prompt plus the tokens asked for, does not fit the model's context.

    ``num_prompt_tokens`` is told where the prompt alone is too long, and so is ``max_model_len``, the context.
    """

    code = "context_length_exceeded"

    def __init__(
        self, message: str, *, param: str | None = None, num_prompt_tokens: int = 0, max_model_len: int = 0
    ) -> None:
        super().__init__(message, param=param)
        self.num_prompt_tokens = num_prompt_tokens
        self.max_model_len = max_model_len


class Unsupported(InvalidRequest):
    """A field that would change the meaning of the answer, which this server cannot honour."""

    code = "unsupported_value"


class ThreadUnsupported(Unsupported):
    """The request counts on a conversation that the server would hold; clients then send all of it."""

    code = "thread_unsupported_request"


class Unauthorized(QuireError):
    """No key, or a wrong one."""

    status = 401
    kind = "authentication_error"
    code = "invalid_api_key"


class Forbidden(QuireError):
    """The caller may not do this here (a foreign Host header, for instance)."""

    status = 403
    kind = "permission_error"
    code = "forbidden"


class NotFound(QuireError):
    """No such route."""

    status = 404
    kind = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """The request names a model that is not served here."""

    code = "model_not_found"


class MethodNotAllowed(QuireError):
    status = 405
    kind = "invalid_request_error"
    code = "method_not_allowed"


class Conflict(QuireError):
    """The engine is in a state in which this cannot be done."""

    status = 409
    kind = "invalid_request_error"
    code = "conflict"


class RequestTooLarge(QuireError):
    """The body is over the server's limit."""

    status = 413
    kind = "invalid_request_error"
    code = "request_too_large"


class HeadersTooLarge(RequestTooLarge):
    """The request line and headers are over the server's limit."""

    status = 431
    code = "headers_too_large"


class RequestTimeout(QuireError):
    """The client took too long to send its request."""

    status = 408
    kind = "invalid_request_error"
    code = "request_timeout"


class UnsupportedMediaType(QuireError):
    status = 415
    kind = "invalid_request_error"
    code = "unsupported_media_type"


class Overloaded(QuireError):
    """The queue is full; ``retry_after_s`` says when to come back."""

    status = 503
    kind = "overloaded_error"
    code = "overloaded"


class Asleep(Overloaded):
    """The engine has given its memory back and takes no requests until it is woken."""

    code = "asleep"


# --- what happened inside -----------------------------------------------------------------------------------------


class EngineDead(QuireError):
    """The engine process ended, or never came up."""

    status = 503
    kind = "server_error"
    code = "engine_dead"


class GenerationFailed(QuireError):
    """One request failed inside the engine (its logits were not finite, for instance); the others go on.

    ``outputs``: of a batch, those of all its requests; the ``finish_reason`` of what failed is "error".
    """

    status = 500
    kind = "server_error"
    code = "generation_failed"

    def __init__(self, message: str, *, outputs: Sequence["RequestOutput"] = ()) -> None:
        super().__init__(message)
        self.outputs = outputs


# --- what the operator or the machine got wrong; these end a start-up ------------------------------------------------


class ConfigError(QuireError, ValueError):
    """A flag, a config file or a combination of settings that cannot work here."""


class ModelUnavailable(QuireError):
    """A model's files cannot be had: no such name, no access, no network, no space."""


class CorruptCheckpoint(QuireError):
    """A checkpoint's files are not what they claim to be. Names the file and, where it can, the tensor."""


class UnsupportedModel(QuireError):
    """A well-formed checkpoint of an architecture, type or format that is not implemented."""


NOTHING_LEFT = (
    "the request leaves no token to choose here: its grammar, allowed_token_ids, bad_words, min_tokens and logit_bias "
    "forbid all of them together"
)
"""Why the engine ended a sequence whose request asked for what cannot be."""


def of_failure(reason: object) -> QuireError:
    """The error of a request that the engine ended for this reason."""
    kind = InvalidRequest if reason == NOTHING_LEFT else GenerationFailed
    return kind(f"The request failed: {reason}.")


def of_kind(kind: str, message: str) -> QuireError:
    """An error that came from another process, by the name of its class; EngineDead for a name that is none."""
    known = globals().get(kind)
    return known(message) if isinstance(known, type) and issubclass(known, QuireError) else EngineDead(message)
