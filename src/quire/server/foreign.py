"""Against web pages elsewhere that give this server orders through a browser on this machine.

A page may send a POST without a body, or load an address as a picture, without asking whether it may: the same-origin
policy only keeps it from reading the answer. Browsers say where such a request comes from, and other clients do not
say anything. Where a body of JSON is required there is no such danger: a page must ask first (CORS).
"""

from collections.abc import Collection
from functools import wraps
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from quire.core.errors import Forbidden
from quire.server.endpoint import Handler


def refusing_pages(handler: Handler, allowed_origins: Collection[str]) -> Handler:
    """The handler, for requests that are no page's, or of a page of this server or of one of the allowed origins."""

    @wraps(handler)
    async def guarded(request: Request) -> Response:
        origin = request.headers.get("origin")
        if origin is None:
            is_foreign = request.headers.get("sec-fetch-site") in ("cross-site", "same-site")
        else:
            is_own = urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()
            is_foreign = not is_own and origin not in allowed_origins and "*" not in allowed_origins
        if is_foreign:
            raise Forbidden(
                "A web page of another origin gave this order: only this server's own pages may, and those of "
                "--allowed-origins."
            )
        return await handler(request)

    return guarded
