"""``GET /metrics``: Prometheus text."""

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from quire.server.endpoint import Endpoint
from quire.server.service import service_of


async def metrics(request: Request) -> Response:
    return Response(service_of(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)


ENDPOINTS = (Endpoint(path="/metrics", handler=metrics, summary="Prometheus metrics"),)
