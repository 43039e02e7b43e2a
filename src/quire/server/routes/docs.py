"""``GET /openapi.json`` and ``/docs``: a page without scripts, drawn from the same schema."""

import html
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from quire.server.endpoint import Endpoint
from quire.server.openapi import openapi
from quire.server.query import read_query
from quire.server.responses import json_response
from quire.server.schema.ops import SchemaQuery
from quire.server.service import service_of

_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1.1rem; border-top: 1px solid #8884; padding-top: 1rem; }
code { font-family: ui-monospace, monospace; }
td, th { text-align: left; padding: .1rem 1rem .1rem 0; vertical-align: top; }
:root { color-scheme: light dark; }
"""


async def schema(request: Request) -> Response:
    return json_response(_described(request, is_whole=read_query(request, SchemaQuery).all))


async def docs(request: Request) -> Response:
    return HTMLResponse(_page(_described(request, is_whole=True)), headers=_HEADERS)


def _described(request: Request, *, is_whole: bool) -> dict[str, Any]:
    endpoints: tuple[Endpoint, ...] = request.app.state.endpoints
    shown = [endpoint for endpoint in endpoints if is_whole or not endpoint.is_switch]
    return openapi(shown, needs_key=bool(service_of(request).config.api_key))


def _page(description: dict[str, Any]) -> str:
    sections = [
        _section(path, method, operation, description["components"]["schemas"])
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Quire</title>'
        f"<style>{_STYLE}</style><h1>Quire</h1>"
        '<p>The whole schema: <a href="openapi.json">openapi.json</a></p>' + "".join(sections) + "</html>"
    )


def _section(path: str, method: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    head = f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(operation['summary'])}</p>"
    body = operation.get("requestBody")
    if body is None:
        return head
    name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    fields = schemas[name]["properties"]
    required = schemas[name].get("required", ())
    rows = "".join(
        f"<tr><td><code>{html.escape(field)}</code>{' (required)' if field in required else ''}</td>"
        f"<td>{html.escape(_type(about))}</td><td>{html.escape(about.get('description', ''))}</td></tr>"
        for field, about in fields.items()
    )
    return f"{head}<table>{rows}</table>"


def _type(about: dict[str, Any]) -> str:
    if "anyOf" in about:
        return " or ".join(dict.fromkeys(_type(kind) for kind in about["anyOf"] if kind.get("type") != "null"))
    if "$ref" in about:
        return str(about["$ref"].rpartition("/")[2])
    bounds = [f"{sign} {about[key]}" for key, sign in (("minimum", ">="), ("maximum", "<=")) if key in about]
    return " ".join([str(about.get("type", "any")), *bounds])


ENDPOINTS = (
    Endpoint(
        path="/openapi.json",
        handler=schema,
        summary="This API as an OpenAPI document",
        query=SchemaQuery,
        answer=dict[str, Any],
    ),
    Endpoint(path="/docs", handler=docs, summary="This API as a page"),
)
