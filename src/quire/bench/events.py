"""What a server says: one event of a stream of completions, an error.

Servers are anyone's, so what they send may be anything. Decoders skip what is not needed, for they run on the cores of
the server that is measured.
"""

import contextlib

import msgspec

from quire.core.errors import QuireError


class Usage(msgspec.Struct):
    """Tokens, as the server counts them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Delta(msgspec.Struct):
    """What a chat's message grows by."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class Choice(msgspec.Struct):
    """What one answer grows by: ``text`` of a completion, ``delta`` of a chat."""

    text: str | None = None
    delta: Delta | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


class _ErrorDetail(msgspec.Struct):
    message: str


class _ErrorBody(msgspec.Struct):
    error: _ErrorDetail


_decode_event = msgspec.json.Decoder(_Event).decode


def read_event(data: bytes) -> tuple[list[Choice], Usage | None]:
    """The JSON of one event. Raises QuireError for what is none, and for an error."""
    try:
        event = _decode_event(data)
    except (ValueError, RecursionError) as error:
        raise QuireError(f"an event of the stream cannot be read: {error}: {data[:100]!r}") from None
    problem = bytes(event.error)
    if problem not in (b"", b"null"):
        raise QuireError(f"the answer broke off: {error_message(problem)}")
    return event.choices or [], event.usage


def error_message(body: bytes) -> str:
    """The message of an error in OpenAI's shape, with or without the ``error`` around it; else its beginning."""
    with contextlib.suppress(ValueError, RecursionError):
        return msgspec.json.decode(body, type=_ErrorBody).error.message
    with contextlib.suppress(ValueError, RecursionError):
        return msgspec.json.decode(body, type=_ErrorDetail).message
    return body[:200].decode("utf-8", "replace").strip()
