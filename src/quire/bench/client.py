"""Talks to the server that is measured: streams completions, and asks what there is to ask around a run.

aiohttp, since its parser is in C, and one connection for each request under way. A streamed token costs this client 25
us of CPU time with 16 streams of 50 tokens a second, 50 us with one of 200 (most of it is being woken up; 3 us are the
reading of the event), so 1 to 2 % of a core (Zen 5, 2 cores, uvloop).
"""

import os
import time
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from quire.bench.answer import Answer
from quire.bench.events import error_message
from quire.bench.target import Target
from quire.core.errors import ConfigError, QuireError

_CONNECT_TIMEOUT_S = 30.0
_KEEP_ALIVE_S = 2.0
"""An idle connection is given up before a server would close it under a request that is just being sent."""


class ServedModel(msgspec.Struct, frozen=True):
    """An entry of ``/v1/models``."""

    id: str
    root: str | None = None
    """What it was loaded from, where the server says."""


class _ModelList(msgspec.Struct):
    data: list[ServedModel]


class Client:
    """Connections to one server. ``async with Client(target)``; belongs to one event loop."""

    def __init__(self, target: Target) -> None:
        self.target = target
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S, ssl=target.verifies_certificates)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"Accept-Encoding": "identity", "Content-Type": "application/json", **target.headers},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def stream(self, body: bytes, *, queued_s: float | None = None, request_id: str | None = None) -> Answer:
        """Send one request and read its answer to the end. What goes wrong is the answer's ``error``."""
        headers = None if request_id is None else {"X-Request-Id": request_id}
        start_s = time.perf_counter()
        answer = Answer(start_s if queued_s is None else queued_s, start_s)
        try:
            async with self._session.post(self.target.url, data=body, headers=headers) as response:
                if response.status != 200:
                    message = error_message(await response.read())
                    answer.error = f"HTTP status {response.status}: {message}"
                    return answer
                async for piece in response.content.iter_any():
                    answer.feed(piece, time.perf_counter())
                answer.end()
        except QuireError as error:
            answer.error = error.message
        except (aiohttp.ClientError, OSError, ValueError) as error:
            answer.error = _reason(error)
        return answer

    async def models(self) -> list[ServedModel] | None:
        """What the server lists; None if it has no such list. Raises QuireError if there is no server."""
        url = self.target.models_url
        try:
            async with self._session.get(url) as response:
                if response.status in (401, 403):
                    raise QuireError(f"{url} answered {response.status}: the server wants a key, or another one.")
                if response.status != 200:
                    return None
                listing = await response.read()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise QuireError(f"there is no server to measure at {self.target.base_url}: {_reason(error)}.") from None
        try:
            return msgspec.json.decode(listing, type=_ModelList).data
        except (ValueError, RecursionError):
            return None

    async def profile(self, action: str) -> None:
        """POST ``/start_profile`` or ``/stop_profile``. Raises ConfigError if the server has no profiler."""
        url = f"{self.target.base_url}/{action}_profile"
        try:
            async with self._session.post(url) as response:
                if response.status != 200:
                    raise ConfigError(f"--profile: {url} answered {response.status}: this server has no profiler on.")
        except (aiohttp.ClientError, OSError) as error:
            raise QuireError(f"--profile: {url} cannot be reached: {_reason(error)}.") from None


def _reason(error: Any) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0  # below 0 where a name has no address
        why = os.strerror(number) if number > 0 else error.os_error.strerror or str(error.os_error)
        return f"cannot connect to {error.host}:{error.port}: {why}"
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, ValueError) and not isinstance(error, aiohttp.ClientError):
        return f"a header cannot be sent: {error}"
    return f"the connection broke off: {error or type(error).__name__}"
