"""``GET /metrics``: Prometheus text."""

from starlette.requests import Request
from starlette.responses import Response

from quire.server.endpoint import Endpoint
from quire.server.service import service_of

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The text format that every Prometheus reads."""


async def metrics(request: Request) -> Response:
    return Response(service_of(request).metrics.text(), media_type=_CONTENT_TYPE)


ENDPOINTS = (Endpoint(path="/metrics", handler=metrics, summary="Prometheus metrics"),)
