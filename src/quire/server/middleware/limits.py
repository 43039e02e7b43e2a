"""How much a client may send: header lines and bytes (431), body bytes (413), the latter counted while they arrive."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quire.core.config import ServerConfig
from quire.core.errors import HeadersTooLarge, RequestTooLarge
from quire.server.responses import error_response


class Limits:
    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        error = self._headers_error(scope) or self._length_error(scope)
        if error is not None:
            await error_response(error, scope)(scope, receive, send)
            return
        num_bytes, limit = 0, self._config.max_body_bytes

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            if message["type"] == "http.request":
                num_bytes += len(message.get("body", b""))
                if num_bytes > limit:
                    raise _too_large(f"more than {limit}", limit)
            return message

        await self._app(scope, counted, send)

    def _headers_error(self, scope: Scope) -> HeadersTooLarge | None:
        headers, config = scope["headers"], self._config
        if len(headers) > config.max_header_count:
            return HeadersTooLarge(
                f"The request has {len(headers)} header lines: at most {config.max_header_count} are read "
                "(--max-header-count)."
            )
        num_bytes = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
        num_bytes += sum(len(name) + len(value) + 4 for name, value in headers)
        if num_bytes > config.max_header_bytes:
            return HeadersTooLarge(
                f"The request line and headers have {num_bytes} bytes: at most {config.max_header_bytes} are read "
                "(--max-header-bytes)."
            )
        return None

    def _length_error(self, scope: Scope) -> RequestTooLarge | None:
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value[:20]) > self._config.max_body_bytes:
                return _too_large(value[:20].decode(), self._config.max_body_bytes)
        return None


def _too_large(size: str, limit: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"The body has {size} bytes: at most {limit} are read (--max-body-bytes). Send less at once."
    )
