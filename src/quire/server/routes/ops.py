"""Operations: how busy it is, what it runs with, ending requests, pausing, sleeping. vLLM's routes and answers.

They need the key like all others, and are orders that no web page elsewhere may give. A client that hangs up does not
take its order back.
"""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from quire.core.errors import InvalidRequest
from quire.server.body import read_json, read_optional_json
from quire.server.endpoint import Endpoint
from quire.server.query import read_query
from quire.server.responses import json_response
from quire.server.schema.ops import (
    Aborted,
    AbortRequest,
    AbortRequests,
    Asleep,
    IsPaused,
    IsSleeping,
    Load,
    PauseQuery,
    ResetQuery,
    ServerInfo,
    SleepQuery,
    Status,
    Success,
    WakeUpQuery,
    WokenUp,
)
from quire.server.service import Service, service_of
from quire.version import __version__


async def load(request: Request) -> Response:
    service = service_of(request)
    stats = service.llm.stats
    return json_response(Load(len(service.running), stats.num_running, stats.num_waiting))


async def server_info(request: Request) -> Response:
    return json_response(describe(service_of(request)))


def describe(service: Service) -> ServerInfo:
    """What is served and with what, by SGLang's names at the top and vLLM's below ``vllm_config``; nothing secret."""
    llm, stats = service.llm, service.llm.stats
    parts: dict[str, dict[str, object]] = msgspec.to_builtins(llm.config)
    parts["model"].pop("hf_token", None)
    settings = {name: value for part in parts.values() for name, value in part.items()}
    num_tokens = llm.info.num_blocks * llm.info.block_size
    return settings | {
        "version": __version__,
        "model_path": llm.config.model.model,
        "tokenizer_path": llm.config.model.tokenizer or llm.config.model.model,
        "served_model_name": service.served_names[0],
        "served_model_names": list(service.served_names),
        "max_model_len": llm.info.max_model_len,
        "max_num_seqs": llm.info.max_num_seqs,
        "max_num_batched_tokens": llm.info.max_num_batched_tokens,
        "max_num_interleaved_tokens": llm.info.max_num_interleaved_tokens,
        "block_size": llm.info.block_size,
        "dtype": llm.info.dtype,
        "context_length": llm.info.max_model_len,
        "max_running_requests": llm.info.max_num_seqs,
        "max_total_num_tokens": num_tokens,
        "page_size": llm.info.block_size,
        "disable_radix_cache": not settings["enable_prefix_caching"],
        "tp_size": settings["tensor_parallel_size"],
        "pp_size": settings["pipeline_parallel_size"],
        "dp_size": settings["data_parallel_size"],
        "is_paused": llm.control.is_paused,
        "is_sleeping": llm.control.is_sleeping,
        "internal_states": [
            {
                "num_running_reqs": stats.num_running,
                "num_waiting_reqs": stats.num_waiting,
                "token_usage": stats.kv_usage,
                "max_total_num_tokens": num_tokens,
                "last_gen_throughput": service.metrics.generation_rate(),
            }
        ],
        "vllm_config": {f"{name}_config": part for name, part in parts.items()},
    }


async def reset_prefix_cache(request: Request) -> Response:
    query = read_query(request, ResetQuery)
    control = service_of(request).llm.control
    return json_response(Success(await control.reset_prefix_cache(reset_running_requests=query.reset_running_requests)))


async def abort_request(request: Request) -> Response:
    body = await read_json(request, AbortRequest)
    if not body.rid and not body.abort_all:
        raise InvalidRequest("rid is missing: name the request to end, or set abort_all.", param="$.rid")
    return json_response(Aborted(service_of(request).abort(None if body.abort_all else [body.rid])))


async def abort_requests(request: Request) -> Response:
    body = await read_optional_json(request, AbortRequests)
    ids = [body.request_ids] if isinstance(body.request_ids, str) else body.request_ids
    return json_response(Aborted(service_of(request).abort(ids or None)))


async def pause(request: Request) -> Response:
    query = read_query(request, PauseQuery)
    mode = "wait" if query.wait_for_inflight_requests else query.mode
    await service_of(request).llm.control.pause(mode, clear_cache=query.clear_cache)
    return json_response(Status("paused"))


async def resume(request: Request) -> Response:
    await service_of(request).llm.control.resume()
    return json_response(Status("resumed"))


async def is_paused(request: Request) -> Response:
    return json_response(IsPaused(service_of(request).llm.control.is_paused))


async def sleep(request: Request) -> Response:
    query = read_query(request, SleepQuery)
    await service_of(request).llm.control.sleep(query.level, query.mode)
    return json_response(Asleep(level=query.level))


async def wake_up(request: Request) -> Response:
    control, tags = service_of(request).llm.control, read_query(request, WakeUpQuery).tags
    await control.wake_up(tags)
    return json_response(WokenUp(status="sleeping" if control.is_sleeping else "awake", tags=tags or None))


async def is_sleeping(request: Request) -> Response:
    return json_response(IsSleeping(service_of(request).llm.control.is_sleeping))


_POST = ("POST",)


def switch(endpoint: Endpoint) -> Endpoint:
    """The same as one that stops the service, or lets it go on; it answers 409 where that cannot be now."""
    return msgspec.structs.replace(endpoint, methods=_POST, errors=(409,), is_order=True, is_switch=True)


ENDPOINTS = (
    Endpoint(path="/load", handler=load, summary="How much is running and waiting", answer=Load),
    Endpoint(path="/server_info", handler=server_info, summary="What is served, and how", answer=ServerInfo),
    Endpoint(
        path="/reset_prefix_cache",
        methods=_POST,
        handler=reset_prefix_cache,
        summary="Forget all cached prefixes; success: none is left",
        query=ResetQuery,
        answer=Success,
        is_order=True,
    ),
    Endpoint(
        path="/abort_request",
        methods=_POST,
        handler=abort_request,
        summary="End a request, or all, with what they have",
        body=AbortRequest,
        answer=Aborted,
        is_order=True,
    ),
    Endpoint(
        path="/abort_requests",
        methods=_POST,
        handler=abort_requests,
        summary="End several requests, or all, with what they have",
        body=AbortRequests,
        is_body_optional=True,
        answer=Aborted,
        is_order=True,
    ),
    switch(
        Endpoint(
            path="/pause",
            handler=pause,
            summary="Compute nothing until /resume; requests that come wait",
            query=PauseQuery,
            answer=Status,
        )
    ),
    switch(Endpoint(path="/resume", handler=resume, summary="Go on after /pause", answer=Status)),
    Endpoint(path="/is_paused", handler=is_paused, summary="Whether nothing is computed", answer=IsPaused),
    switch(
        Endpoint(
            path="/sleep",
            handler=sleep,
            summary="Give memory back until /wake_up; requests that come are refused",
            query=SleepQuery,
            answer=Asleep,
        )
    ),
    switch(
        Endpoint(
            path="/wake_up", handler=wake_up, summary="Take memory again, and go on", query=WakeUpQuery, answer=WokenUp
        )
    ),
    Endpoint(path="/is_sleeping", handler=is_sleeping, summary="Whether memory was given back", answer=IsSleeping),
)
