"""SGLang's routes beside ``/generate``: information, health, load, cache, pausing."""

import asyncio
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from quire.core.errors import InvalidRequest, Overloaded
from quire.core.outputs import OutputKind
from quire.core.sampling_params import SamplingParams
from quire.server.body import read_optional_json
from quire.server.endpoint import Endpoint
from quire.server.responses import json_response
from quire.server.routes.health import Health
from quire.server.routes.ops import server_info, switch
from quire.server.schema.ops import ServerInfo
from quire.server.schema.sglang import EngineLoad, Loads, PauseGenerationRequest, Said, SglangModelInfo
from quire.server.service import Plan, Service, request_id_of, service_of
from quire.version import __version__

_PATIENCE_S = 20.0
_LOOK_S = 0.02
"""How often a busy engine's progress is looked at."""


async def model_info(request: Request) -> Response:
    service = service_of(request)
    model = service.llm.config.model
    return json_response(
        SglangModelInfo(
            model_path=model.model,
            tokenizer_path=model.tokenizer or model.model,
            preferred_sampling_params=service.llm.default_params or None,
        )
    )


async def health_generate(request: Request) -> Response:
    """Healthy is an engine that makes a token, for whomever: one that is busy is not asked for more."""
    service = service_of(request)
    if (error := service.unavailable()) is not None:
        raise error
    service.llm.control.check_awake()
    if service.llm.control.is_paused:
        raise Overloaded("The engine is paused, and generates nothing until it is resumed (POST /resume).")
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await (_progress(service) if service.running else _one_token(service, request_id_of(request)))
    except TimeoutError:
        raise Overloaded(f"The engine did not generate anything within {_PATIENCE_S:g} s.", retry_after_s=5) from None
    return json_response(Health("ok"))


async def _progress(service: Service) -> None:
    """Return after the engine's next step, or when there is nothing more that it could do."""
    before = service.llm.stats
    while service.running and service.llm.stats is before:
        await asyncio.sleep(_LOOK_S)


async def _one_token(service: Service, request_id: str) -> None:
    plan = Plan(
        prompts=[[0]],
        params=SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True, detokenize=False),
        kind=OutputKind.FINAL,
        request_id=request_id,
        add_special_tokens=False,
        priority=0,
        cache_salt="",
    )
    generation = await service.generate(plan)
    try:
        await generation.finals()
    finally:
        generation.close()


async def loads(request: Request) -> Response:
    service = service_of(request)
    llm, stats = service.llm, service.llm.stats
    num_tokens = llm.info.num_blocks * llm.info.block_size
    load = EngineLoad(
        num_running_reqs=stats.num_running,
        num_waiting_reqs=stats.num_waiting,
        num_total_reqs=stats.num_running + stats.num_waiting,
        num_used_tokens=round(stats.kv_usage * num_tokens),
        max_total_num_tokens=num_tokens,
        token_usage=stats.kv_usage,
        gen_throughput=service.metrics.generation_rate(),
        cache_hit_rate=stats.prefix_hits / max(1, stats.prefix_queries),
        max_running_requests=llm.info.max_num_seqs,
    )
    now = datetime.now(UTC).isoformat()
    return json_response(Loads(timestamp=now, version=__version__, loads=[load]))


async def flush_cache(request: Request) -> Response:
    if not await service_of(request).llm.control.reset_prefix_cache():
        raise InvalidRequest(
            "Requests are running, and keep their prefixes; all others are forgotten. Try again later."
        )
    return PlainTextResponse("Cache flushed.\n")


async def pause_generation(request: Request) -> Response:
    body = await read_optional_json(request, PauseGenerationRequest)
    await service_of(request).llm.control.pause("abort" if body.mode == "abort" else "keep", clear_cache=False)
    return json_response(Said("Generation paused successfully."))


async def continue_generation(request: Request) -> Response:
    await service_of(request).llm.control.resume()
    return json_response(Said("Generation continued successfully."))


ENDPOINTS = (
    *(
        Endpoint(path=path, handler=model_info, summary="Which model is served", answer=SglangModelInfo)
        for path in ("/get_model_info", "/model_info")
    ),
    Endpoint(path="/get_server_info", handler=server_info, summary="What is served, and how", answer=ServerInfo),
    Endpoint(path="/health_generate", handler=health_generate, summary="Generates a token now", answer=Health),
    Endpoint(path="/v1/loads", handler=loads, summary="How much is running and waiting", answer=Loads),
    Endpoint(
        path="/flush_cache",
        methods=("GET", "POST"),
        handler=flush_cache,
        summary="Forget all cached prefixes",
        is_order=True,
    ),
    switch(
        Endpoint(
            path="/pause_generation",
            handler=pause_generation,
            summary="Compute nothing until /continue_generation; requests that come wait",
            body=PauseGenerationRequest,
            is_body_optional=True,
            answer=Said,
        )
    ),
    switch(
        Endpoint(
            path="/continue_generation",
            handler=continue_generation,
            summary="Go on after /pause_generation",
            answer=Said,
        )
    ),
)
