"""One route as the application serves it and as the published schema describes it."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

Handler = Callable[[Request], Awaitable[Response]]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    handler: Handler
    summary: str
    methods: tuple[str, ...] = ("GET",)
    body: type[BaseModel] | None = None
    is_body_optional: bool = False
    query: type[BaseModel] | None = None
    """Its fields are query parameters."""
    answer: Any = None
    """The msgspec type of a 200's JSON, or a tuple of those that it may be; None where it is text."""
    chunk: Any = None
    """The type of a stream's events, where there can be one."""
    errors: tuple[int, ...] = ()
    """Beyond those that every route can answer with."""
    is_order: bool = False
    """Changes what the server does: refused to web pages of other origins."""
    is_switch: bool = False
    """Stops the service for everyone, or lets it go on. Not in the published document unless all of it is asked for:
    who tries what is listed there, as test tools and agents do, must not stop the server by that."""
    is_open: bool = False
    """Answered without a key."""
