"""Against DNS rebinding: a server that listens on this machine only answers to its own names.

A web page elsewhere may make its own name resolve to 127.0.0.1; the browser then sends that name as Host.
"""

import ipaddress
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from quire.core.errors import Forbidden
from quire.server.responses import error_response

_OWN_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]"))


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Hosts:
    """Refuses requests whose Host is none of ``localhost``, ``127.0.0.1``, ``[::1]``, ``host`` and ``allowed``."""

    def __init__(self, app: ASGIApp, host: str, allowed: Iterable[str]) -> None:
        self._app = app
        self._names = _OWN_NAMES | {host.lower(), f"[{host.lower()}]"} | {name.lower() for name in allowed}
        self._is_open = "*" in self._names or not is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._is_open:
            await self._app(scope, receive, send)
            return
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) == 1 and _name(hosts[0]) in self._names:
            await self._app(scope, receive, send)
            return
        shown = f"{hosts[0]!r:.200}" if len(hosts) == 1 else "missing or given twice"
        error = Forbidden(
            f"The Host header is {shown}: this server listens on its own machine only and answers to localhost. "
            "Allow other names with --allowed-hosts."
        )
        await error_response(error, scope)(scope, receive, send)


def _name(host: str) -> str:
    """Without the port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() and (":" not in name or name.endswith("]")) else host).lower()
