"""llama.cpp's own routes: ``/completion``, ``/infill``, ``/apply-template``, ``/props``, ``/slots``.

Those that count a chat's tokens too, and other names of OpenAI's.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from quire.core.errors import InvalidRequest, Overloaded, Unsupported
from quire.core.outputs import OutputKind
from quire.core.sampling_params import MAX_N, SamplingParams
from quire.engine.assembler import LiveSequence
from quire.server.answers.llamacpp import LlamaCppAnswer
from quire.server.body import read_json
from quire.server.delivery import deliver
from quire.server.endpoint import Endpoint
from quire.server.faces import LLAMACPP
from quire.server.generation import Generation
from quire.server.llamacpp import PATHS, encode, params_of, prompts_of, settings_of
from quire.server.query import read_query
from quire.server.rendering import count_tokens, render
from quire.server.responses import json_response
from quire.server.routes import chat, health, models, responses
from quire.server.sampling import chat_paths, renamed
from quire.server.schema.chat import ChatCompletionRequest
from quire.server.schema.llamacpp import (
    AppliedTemplate,
    ApplyTemplateRequest,
    InfillRequest,
    LlamaCppChunk,
    LlamaCppCompletion,
    LlamaCppOptions,
    LlamaCppRequest,
    LlamaCppSelection,
    Props,
    Slot,
    SlotsQuery,
)
from quire.server.schema.models import ModelList
from quire.server.schema.responses import InputTokens
from quire.server.service import Plan, Service, request_id_of, service_of
from quire.text.fim import FillInMiddle, OtherFile
from quire.version import __version__


class _Begun(NamedTuple):
    generation: Generation
    prompts: Sequence[str]
    """Their texts, as the model reads them."""

    def close(self) -> None:
        self.generation.close()


async def completion(request: Request) -> Response:
    service = service_of(request)
    body = await read_json(request, LlamaCppRequest)
    llm = service.llm
    asked = prompts_of(body.prompt)
    params = _params(service, body)
    limit = max(service.config.max_prompts, MAX_N)
    if len(asked) * params.n > limit:
        raise InvalidRequest(
            f"{len(asked)} prompts with n_cmpl = {params.n} make {len(asked) * params.n} answers: at most {limit} fit "
            "in one request.",
            param="$.prompt",
        )
    prompts = await llm.run_blocking(lambda: [encode(prompt, llm.tokenizer) for prompt in asked])
    return await _answer(request, service, body, params, prompts)


async def infill(request: Request) -> Response:
    service = service_of(request)
    body = await read_json(request, InfillRequest)
    llm = service.llm
    params = _params(service, body)
    fim = FillInMiddle.of(llm.tokenizer)
    others = [OtherFile(extra.filename, extra.text) for extra in body.input_extra]

    def build() -> list[int]:
        return fim.prompt(body.input_prefix, body.input_suffix, begun=body.prompt, others=others)

    if not params.ignore_eos:
        params = params.replace(stop_token_ids=fim.end_ids)
    return await _answer(request, service, body, params, [await llm.run_blocking(build)])


def _params(service: Service, body: LlamaCppOptions) -> SamplingParams:
    llm = service.llm
    with renamed(PATHS):
        return params_of(
            body,
            llm.default_params,
            llm.tokenizer,
            eos_token_ids=llm.eos_token_ids,
            max_model_len=llm.info.max_model_len,
        )


async def _answer(
    request: Request, service: Service, body: LlamaCppOptions, params: SamplingParams, prompts: Sequence[list[int]]
) -> Response:
    llm = service.llm
    request_id = request_id_of(request)
    answer = LlamaCppAnswer(
        body,
        params,
        llm.tokenizer,
        model=service.model(body.model),
        settings=settings_of(params, llm.info.max_model_len) | {"stream": body.stream},
        max_model_len=llm.info.max_model_len,
        shows_nothing=body.n_predict == 0 or (body.n_predict is None and body.max_tokens == 0),
    )
    if answer.is_watched and params.n > 1:
        raise Unsupported(
            "n_indent and t_max_predict_ms end an answer by itself, so n_cmpl must be 1 with them.", param="$.n_cmpl"
        )
    plan = Plan(
        prompts=prompts,
        params=params,
        kind=OutputKind.DELTA if body.stream or answer.is_watched else OutputKind.FINAL,
        request_id=request_id,
        add_special_tokens=False,
        priority=0,
        cache_salt="" if body.cache_prompt else request_id,
    )

    async def begin() -> _Begun:
        with renamed(PATHS):
            generation = await service.generate(plan)
        try:
            ids = [stream.prompt_token_ids for stream in generation.streams]
            texts = await llm.run_blocking(lambda: [llm.tokenizer.decode(one, False) for one in ids])
        except BaseException:
            generation.close()
            raise
        return _Begun(generation, texts)

    return await deliver(
        request,
        begin,
        whole=lambda begun: answer.whole(*begun),
        events=lambda begun: answer.events(*begun),
        is_streamed=body.stream,
        request_id=request_id,
        face=LLAMACPP,
    )


async def apply_template(request: Request) -> Response:
    service = service_of(request)
    body = await read_json(request, ApplyTemplateRequest)
    service.model(body.model)
    return json_response(AppliedTemplate(await render(service, chat.conversation_of(body))))


async def count_chat_tokens(request: Request) -> Response:
    """How long the prompt of such a chat would be; nothing is generated."""
    service = service_of(request)
    body = await read_json(request, ChatCompletionRequest)
    service.model(body.model)
    with chat_paths(body):
        count = await count_tokens(service, chat.conversation_of(body), bool(body.add_special_tokens))
    return json_response(InputTokens(input_tokens=count))


async def props(request: Request) -> Response:
    service = service_of(request)
    llm = service.llm
    context = llm.info.max_model_len
    defaults = _params(service, LlamaCppOptions())
    return json_response(
        Props(
            default_generation_settings={
                "id": 0,
                "id_task": -1,
                "n_ctx": context,
                "speculative": False,
                "is_processing": False,
                "params": settings_of(defaults, context) | {"stream": False},
                "prompt": "",
                "next_token": {"has_next_token": True, "has_new_line": False, "n_remain": -1, "n_decoded": 0},
            },
            total_slots=llm.info.max_num_seqs,
            model_alias=service.served_names[0],
            model_path=llm.config.model.model,
            modalities={"vision": False, "audio": False},
            chat_template=llm.chat_template.source if llm.chat_template is not None else "",
            chat_template_caps={},
            bos_token=llm.tokenizer.bos_token or "",
            eos_token=llm.tokenizer.eos_token or "",
            build_info=f"quire-{__version__}",
            is_sleeping=llm.control.is_sleeping,
        )
    )


async def slots(request: Request) -> Response:
    service = service_of(request)
    llm = service.llm
    total, context = llm.info.max_num_seqs, llm.info.max_model_len
    busy = [_slot(place, one, context) for place, one in enumerate(llm.live_sequences()[:total])]
    if read_query(request, SlotsQuery).fail_on_no_slot is not None and len(busy) == total:
        raise Overloaded(f"All {total} slots are taken: try again later.", retry_after_s=1)
    idle = [Slot(id=place, n_ctx=context, is_processing=False) for place in range(len(busy), total)]
    return json_response(busy + idle)


def _slot(place: int, sequence: LiveSequence, context: int) -> Slot:
    request = sequence.request
    room = request.max_total_tokens - len(request.prompt) - sequence.num_generated
    return Slot(
        id=place,
        id_task=sequence.handle,
        n_ctx=context,
        is_processing=True,
        params=settings_of(request.params, context),
        next_token={
            "has_next_token": True,
            "has_new_line": sequence.has_new_line,
            "n_remain": room if request.params.max_tokens is not None else -1,
            "n_decoded": sequence.num_generated,
        },
    )


_COUNT_CHAT_TOKENS = Endpoint(
    path="/v1/chat/completions/input_tokens",
    methods=("POST",),
    handler=count_chat_tokens,
    summary="How many tokens a chat's prompt has",
    body=ChatCompletionRequest,
    answer=InputTokens,
    errors=(404,),
)
ENDPOINTS = (
    *(
        Endpoint(
            path=path,
            methods=("POST",),
            handler=completion,
            summary="The continuation of one or many prompts, in llama.cpp's shape",
            body=LlamaCppRequest,
            answer=(LlamaCppCompletion, list[LlamaCppCompletion], LlamaCppSelection, list[LlamaCppSelection]),
            chunk=LlamaCppChunk,
            errors=(404,),
        )
        for path in ("/completion", "/completions")
    ),
    Endpoint(
        path="/infill",
        methods=("POST",),
        handler=infill,
        summary="What stands between a prefix and a suffix",
        body=InfillRequest,
        answer=(LlamaCppCompletion, LlamaCppSelection),
        chunk=LlamaCppChunk,
        errors=(404,),
    ),
    Endpoint(
        path="/apply-template",
        methods=("POST",),
        handler=apply_template,
        summary="The prompt of a conversation",
        body=ApplyTemplateRequest,
        answer=AppliedTemplate,
        errors=(404,),
    ),
    Endpoint(path="/props", handler=props, summary="The model, and settings where none are given", answer=Props),
    Endpoint(path="/slots", handler=slots, summary="What runs now", query=SlotsQuery, answer=list[Slot]),
    Endpoint(path="/v1/health", handler=health.healthy, summary="Nothing is wrong", answer=health.Health, is_open=True),
    Endpoint(path="/models", handler=models.list_models, summary="The models served here", answer=ModelList),
    msgspec.structs.replace(chat.CHAT_COMPLETIONS, path="/chat/completions"),
    _COUNT_CHAT_TOKENS,
    msgspec.structs.replace(_COUNT_CHAT_TOKENS, path="/chat/completions/input_tokens"),
    msgspec.structs.replace(responses.CREATE_RESPONSE, path="/responses"),
    msgspec.structs.replace(responses.COUNT_INPUT_TOKENS, path="/responses/input_tokens"),
)
