"""A way to reach the OpenAI API: over HTTP to a server, or straight into a server that lives in this process.

``post`` sends JSON and yields the body as it comes; leaving the iterator early ends the request on the other side.
"""

import contextlib
import http.client
import ssl
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from quire.bench.events import error_message
from quire.bench.url import split_url
from quire.core.errors import QuireError

_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 600.0
_CHUNK_BYTES = 65536


class Door(Protocol):
    """Where requests go."""

    name: str
    """What the user is told."""

    def get(self, path: str) -> Any:
        """The JSON at a path; raises QuireError."""

    def post(self, path: str, body: dict[str, Any]) -> Iterator[bytes]:
        """The answer's bytes, piece by piece; raises QuireError, also for every status but 200."""

    def close(self) -> None:
        """Give back what it holds."""


class HttpDoor:
    """A server at a URL, with or without ``/v1`` at its end."""

    def __init__(self, url: str, api_key: str | None = None, *, connect_timeout_s: float = _CONNECT_TIMEOUT_S) -> None:
        parts = split_url("--url", url)
        self.name = url
        self._parts = parts
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._connect_timeout_s = connect_timeout_s
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def get(self, path: str) -> Any:
        with self._answer("GET", path, None) as answer:
            listing = answer.read()
        try:
            return msgspec.json.decode(listing)
        except (ValueError, RecursionError) as error:
            raise QuireError(f"{self.name}{path} did not answer with JSON: {error}") from None

    def post(self, path: str, body: dict[str, Any]) -> Iterator[bytes]:
        with self._answer("POST", path, msgspec.json.encode(body)) as answer:
            while piece := answer.read1(_CHUNK_BYTES):
                yield piece

    def close(self) -> None:
        """Nothing is held between requests."""

    @contextlib.contextmanager
    def _answer(self, method: str, path: str, body: bytes | None) -> Iterator[http.client.HTTPResponse]:
        connection = self._connection()
        try:
            connection.connect()
            connection.sock.settimeout(_READ_TIMEOUT_S)
            connection.request(method, self._prefix + path, body, self._headers)
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise refusal(f"{self.name} answered {answer.status}", answer.read())
            yield answer
        except (OSError, http.client.HTTPException) as error:
            raise QuireError(f"{self.name} cannot be reached or broke off: {error or type(error).__name__}") from None
        except ValueError as error:  # a key or a path that HTTP cannot carry
            raise QuireError(f"{self.name} cannot be asked: {error}") from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=self._connect_timeout_s, context=context)
        return http.client.HTTPConnection(host, port, timeout=self._connect_timeout_s)


def refusal(what: str, body: bytes) -> QuireError:
    """An error answer as an error."""
    return QuireError(f"{what}: {error_message(body)}")
