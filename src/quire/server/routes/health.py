"""Is it alive, is it ready, what is it, what does it allow.

``/livez``: the process should not be restarted. ``/startupz``: it has started, which it has when it answers.
``/health`` and ``/ping``: nothing is wrong (not while it is draining). ``/readyz``: it takes requests now. Paused, it
does: they wait. Asleep, it does not, though nothing is wrong: whoever restarts what is not healthy must let it sleep.
"""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from quire.core import sampling_params as limits
from quire.core.errors import EngineDead
from quire.server.endpoint import Endpoint
from quire.server.responses import json_response
from quire.server.service import service_of
from quire.version import __version__


class Health(msgspec.Struct, frozen=True):
    status: str


class Version(msgspec.Struct, frozen=True):
    version: str


async def healthy(request: Request) -> Response:
    if (error := service_of(request).unavailable()) is not None:
        raise error
    return json_response(Health("ok"))


async def ready(request: Request) -> Response:
    service_of(request).llm.control.check_awake()
    return await healthy(request)


async def alive(request: Request) -> Response:
    error = service_of(request).unavailable()
    if isinstance(error, EngineDead):
        raise error
    return json_response(Health("ok"))


async def started(request: Request) -> Response:
    return json_response(Health("ok"))


async def version(request: Request) -> Response:
    return json_response(Version(__version__))


async def show_limits(request: Request) -> Response:
    service = service_of(request)
    config, engine = service.config, service.llm.config
    return json_response(
        {
            "max_model_len": service.llm.info.max_model_len,
            "max_n": limits.MAX_N,
            "max_prompts": config.max_prompts,
            "max_logprobs": engine.model.max_logprobs,
            "max_stop_strings": limits.MAX_STOP_STRINGS,
            "max_stop_string_chars": limits.MAX_STOP_STRING_CHARS,
            "max_stop_token_ids": limits.MAX_STOP_TOKEN_IDS,
            "max_bad_words": limits.MAX_BAD_WORDS,
            "max_logit_bias": limits.MAX_LOGIT_BIAS,
            "max_num_queued_reqs": engine.scheduler.max_num_queued_reqs,
            "max_num_queued_tokens": engine.scheduler.max_num_queued_tokens,
            "max_body_bytes": config.max_body_bytes,
            "max_header_bytes": config.max_header_bytes,
            "max_header_count": config.max_header_count,
        }
    )


ENDPOINTS = (
    Endpoint(path="/health", handler=healthy, summary="Nothing is wrong", answer=Health, is_open=True),
    Endpoint(
        path="/ping",
        methods=("GET", "POST"),
        handler=healthy,
        summary="Nothing is wrong",
        answer=Health,
        is_open=True,
    ),
    Endpoint(path="/readyz", handler=ready, summary="Takes requests now", answer=Health, is_open=True),
    Endpoint(path="/livez", handler=alive, summary="Need not be restarted", answer=Health, is_open=True),
    Endpoint(path="/startupz", handler=started, summary="Has started", answer=Health, is_open=True),
    Endpoint(path="/version", handler=version, summary="The server's version", answer=Version),
    Endpoint(path="/v1/limits", handler=show_limits, summary="What a request may hold", answer=dict[str, int]),
)
