"""Around every request: its id, its line in the log, its count, and an answer when something of ours breaks.

Law: no exception leaves this, and none of its words reach a client.
"""

import logging
import time
import uuid

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quire.core.errors import QuireError
from quire.server.responses import InternalError, error_response, face_for
from quire.server.service import SANE_REQUEST_ID, Service

log = logging.getLogger("quire.server")

_CLIENT_CLOSED = 499
"""What a request is counted as whose client left before an answer began."""
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class Envelope:
    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        request_id = scope["quire.request_id"] = _request_id(scope)
        status = 0

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name in face_for(scope).request_id_headers:
                    headers[name] = request_id
            await send(message)

        try:
            await self._app(scope, receive, stamped)
        except ClientDisconnect:
            log.debug("%s: the client hung up", request_id)
        except QuireError as error:
            if not status:
                await error_response(error, scope)(scope, receive, stamped)
        except Exception:
            log.exception("%s: %s %s failed", request_id, scope["method"], scope["path"])
            if not status:
                await error_response(InternalError(request_id), scope)(scope, receive, stamped)
        finally:
            self._count(scope, status or _CLIENT_CLOSED, time.monotonic() - began, request_id)

    def _count(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = scope.get("route")
        handler = getattr(route, "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._service.metrics.http_requests.labels(handler, method, f"{status // 100}xx").inc()
        self._service.metrics.http_duration.labels(handler, method).observe(seconds)
        if self._service.config.access_log:
            log.info("%s %s %d %.1f ms %s", method, ascii(scope["path"])[1:-1], status, seconds * 1000, request_id)


def _request_id(scope: Scope) -> str:
    """The client's own, if it is sane, or a fresh one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given: str = value.decode("latin-1")
            return given if SANE_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    return uuid.uuid4().hex
