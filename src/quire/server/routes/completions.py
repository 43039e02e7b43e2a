"""``POST /v1/completions``."""

import time
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from quire.core.errors import InvalidRequest, Unsupported
from quire.core.outputs import OutputKind
from quire.core.sampling_params import MAX_N, SamplingParams
from quire.server.answers.completion import CompletionAnswer
from quire.server.beams import beams_of
from quire.server.body import read_json
from quire.server.delivery import deliver
from quire.server.endpoint import Endpoint
from quire.server.generation import Generation
from quire.server.sampling import beam_paths, completion_params, num_continuations, shape_paths
from quire.server.schema.completion import Completion, CompletionChunk, CompletionRequest, Prompt, prompts_of
from quire.server.service import Plan, Service, request_id_of, service_of
from quire.text.fim import FillInMiddle


async def completions(request: Request) -> Response:
    service = service_of(request)
    body = service.with_defaults(await read_json(request, CompletionRequest))
    request_id = request_id_of(request, body.request_id)
    heading = {
        "id": f"cmpl-{request_id}",
        "created": int(time.time()),
        "model": service.model(body.model),
        "fingerprint": service.fingerprint,
    }
    prompts = prompts_of(body.prompt)
    _check_count(prompts, num_continuations(body), service.config.max_prompts)
    tells_metrics = service.config.enable_per_request_metrics
    answer = CompletionAnswer(body, heading, service.llm.tokenizer, prompts, tells_metrics)
    params = completion_params(body, service.llm.default_params)
    asked: Sequence[Prompt] = prompts
    if body.suffix:
        asked, params = await _around_the_gap(service, body, body.suffix, prompts, params)
    beams = beams_of(body)
    if beams is not None:
        _check_scores(body)
    plan = Plan(
        prompts=asked,
        params=params,
        kind=OutputKind.DELTA if body.stream else OutputKind.FINAL,
        request_id=request_id,
        add_special_tokens=body.add_special_tokens is not False,
        priority=body.priority,
        cache_salt=body.cache_salt,
        beams=beams,
    )

    async def begin() -> Generation:
        with beam_paths(body), shape_paths(body):
            return await service.generate(plan)

    async def whole(generation: Generation) -> Completion:
        return answer.whole(await generation.finals())

    return await deliver(
        request, begin, whole=whole, events=answer.chunks, is_streamed=body.stream, request_id=request_id
    )


async def _around_the_gap(
    service: Service, body: CompletionRequest, suffix: str, prompts: list[Prompt], params: SamplingParams
) -> tuple[list[list[int]], SamplingParams]:
    """The prompts that ask for what stands before ``suffix``, ended by the tokens that end a middle."""
    for name, clashes in (("echo", body.echo), ("truncate_prompt_tokens", body.truncate_prompt_tokens is not None)):
        if clashes:
            raise InvalidRequest(
                f"{name} cannot be combined with suffix, since the prompt is not the text before the answer but has "
                f"marks in it: leave {name} out.",
                param=f"$.{name}",
            )
    try:
        fim = FillInMiddle.of(service.llm.tokenizer)
    except Unsupported as error:
        error.param = "$.suffix"
        raise
    adds_special = body.add_special_tokens is not False

    def build() -> list[list[int]]:
        return [fim.prompt(prompt, suffix, add_special_tokens=adds_special) for prompt in prompts]

    if not params.ignore_eos:
        params = params.replace(stop_token_ids=(*params.stop_token_ids, *fim.end_ids))
    return await service.llm.run_blocking(build), params


def _check_scores(body: CompletionRequest) -> None:
    """A beam search scores what it makes, and not the prompt."""
    if body.echo and (body.logprobs is not None or body.max_tokens == 0):
        raise InvalidRequest(
            "echo asks for the prompt's log probabilities, and use_beam_search is true: a search does not compute "
            "them, so turn one of them off.",
            param="$.echo",
        )


def _check_count(prompts: list[Prompt], num_continuations: int, max_prompts: int) -> None:
    if len(prompts) > max_prompts:
        raise InvalidRequest(
            f"prompt holds {len(prompts)} prompts: at most {max_prompts} fit in one request (--max-prompts).",
            param="$.prompt",
        )
    limit = max(max_prompts, MAX_N)
    if len(prompts) * num_continuations > limit:
        raise InvalidRequest(
            f"{len(prompts)} prompts with n = {num_continuations} make {len(prompts) * num_continuations} "
            f"continuations: at most {limit} fit in one request.",
            param="$.n",
        )


ENDPOINTS = (
    Endpoint(
        path="/v1/completions",
        methods=("POST",),
        handler=completions,
        summary="The continuation of one or many prompts, or what stands in a gap",
        body=CompletionRequest,
        answer=Completion,
        chunk=CompletionChunk,
        errors=(404,),
    ),
)
