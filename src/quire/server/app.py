"""The ASGI application: routes, and what is around them.

Keeps nothing outside of itself, so a process may hold several, or mount one elsewhere.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from quire.core.config import ServerConfig
from quire.core.errors import InvalidRequest, MethodNotAllowed, NotFound, QuireError
from quire.server.endpoint import Endpoint
from quire.server.foreign import refusing_pages
from quire.server.middleware.auth import Auth
from quire.server.middleware.envelope import Envelope
from quire.server.middleware.hosts import Hosts
from quire.server.middleware.limits import Limits
from quire.server.middleware.prefix import Prefix
from quire.server.responses import error_response
from quire.server.routes import (
    chat,
    chat_batch,
    completions,
    docs,
    health,
    llamacpp,
    messages,
    metrics,
    models,
    ollama,
    ollama_models,
    ops,
    responses,
    sagemaker,
    sglang,
    sglang_ops,
    sglang_parsers,
    stored_responses,
    tokenize,
)
from quire.server.service import Service

if TYPE_CHECKING:
    from quire.engine.async_llm import AsyncLLM


def create_app(llm: "AsyncLLM", config: ServerConfig, served_names: Sequence[str]) -> Starlette:
    """The application in front of ``llm``; the first of ``served_names`` appears in answers.

    ``app.state.service`` is its Service. Raises ConfigError for settings that cannot work.
    """
    service = Service(llm, config, served_names)
    endpoints = _endpoints(config)
    app = Starlette(
        routes=[_route(endpoint, config) for endpoint in endpoints],
        middleware=[
            *_prefix(config, endpoints),
            Middleware(Envelope, service=service),
            Middleware(Hosts, host=config.host, allowed=config.allowed_hosts),
            *_cors(config),
            Middleware(Limits, config=config),
            Middleware(Auth, keys=config.api_key, open_paths=[e.path for e in endpoints if e.is_open]),
        ],
        exception_handlers={QuireError: _on_error, HTTPException: _on_http_error},
    )
    app.router.redirect_slashes = False
    app.state.service = service
    app.state.endpoints = endpoints
    # Built now rather than at the first request, so that bad settings end the start-up.
    app.middleware_stack = app.build_middleware_stack()
    return app


def _route(endpoint: Endpoint, config: ServerConfig) -> Route:
    handler = endpoint.handler
    if endpoint.is_order:
        handler = refusing_pages(handler, config.allowed_origins)
    return Route(endpoint.path, handler, methods=list(endpoint.methods))


def _endpoints(config: ServerConfig) -> tuple[Endpoint, ...]:
    families = [
        chat,
        chat_batch,
        completions,
        responses,
        stored_responses,
        messages,
        ollama,
        ollama_models,
        models,
        tokenize,
        health,
        metrics,
        ops,
        sglang,
        sglang_ops,
        sglang_parsers,
        sagemaker,
        llamacpp,
    ]
    found = [endpoint for family in families for endpoint in family.ENDPOINTS]
    return (*found, *(docs.ENDPOINTS if config.enable_docs else ()))


def _prefix(config: ServerConfig, endpoints: Sequence[Endpoint]) -> list[Middleware]:
    if not config.root_path:
        return []
    return [Middleware(Prefix, root_path=config.root_path, paths=[endpoint.path for endpoint in endpoints])]


def _cors(config: ServerConfig) -> list[Middleware]:
    """Closed unless origins are named."""
    if not config.allowed_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=config.allowed_origins,
            allow_methods=config.allowed_methods,
            allow_headers=config.allowed_headers,
            allow_credentials=config.allow_credentials,
            expose_headers=["x-request-id", "request-id"],
        )
    ]


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, QuireError)
    return error_response(error, request.scope)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses."""
    assert isinstance(error, HTTPException)
    path = ascii(request.scope["path"])[1:-1][:200]
    if error.status_code == 404:
        return error_response(NotFound(f"There is no {path} here: see /docs for what there is."), request.scope)
    if error.status_code == 405:
        allowed = ", ".join(_methods(request))
        message = f"{path} does not take {request.method[:20]}: use {allowed}."
        return error_response(MethodNotAllowed(message), request.scope, {"Allow": allowed})
    return error_response(InvalidRequest(str(error.detail)), request.scope)


def _methods(request: Request) -> list[str]:
    """What the request's path takes; the router itself names those of one route only.

    A path that is spelled out is no longer a value of another's parameter.
    """
    fitting = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    spelled = [route for route in fitting if route.path == request.scope["path"]]
    return sorted({method for route in spelled or fitting for method in route.methods})
