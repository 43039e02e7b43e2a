"""Who may come in. Denied by default: without a right key only the open paths are answered, known or not.

Keys are kept as SHA-256 digests only; every one is compared, in constant time, whatever the outcome of the others. The
decision rests on the path that the router will see and on nothing else that a client can say.
"""

import hashlib
import hmac
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from quire.core.errors import ConfigError, Unauthorized
from quire.server.responses import error_response, routed_path

_HEADERS = (b"authorization", b"x-api-key", b"api-key")


class Auth:
    """Raises ConfigError for an empty key. Without any keys, everyone may come in."""

    def __init__(self, app: ASGIApp, keys: Iterable[str], open_paths: Iterable[str]) -> None:
        keys = list(keys)
        if not all(key.strip() for key in keys):
            raise ConfigError("An API key is empty: give each --api-key a value, or leave the flag out.")
        self._app = app
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not self._digests or self._is_allowed(scope):
            await self._app(scope, receive, send)
            return
        error = Unauthorized(
            "The API key is missing or wrong: send Authorization: Bearer KEY, or the key as x-api-key or api-key."
        )
        await error_response(error, scope)(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        return routed_path(scope) in self._open_paths or self._has_key(scope)

    def _has_key(self, scope: Scope) -> bool:
        found = False
        for name, value in scope["headers"]:
            if name not in _HEADERS:
                continue
            if name == b"authorization":
                scheme, _, value = value.partition(b" ")
                if scheme.lower() != b"bearer":
                    continue
            presented = hashlib.sha256(value.strip()).digest()
            for digest in self._digests:
                found |= hmac.compare_digest(presented, digest)
        return found
