"""What Ollama's clients ask about models: which there are, what they are, and that they be fetched or changed.

One model is served, from start to end, so what would change that is refused by name.
"""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from quire.core.errors import InvalidRequest, ModelNotFound, Unsupported
from quire.server.answers.ollama_models import check_name, models, processes, shown
from quire.server.body import read_json
from quire.server.endpoint import Endpoint
from quire.server.faces import OLLAMA, encode
from quire.server.responses import json_response
from quire.server.schema.ollama import (
    OllamaModels,
    OllamaProcesses,
    OllamaPullRequest,
    OllamaShown,
    OllamaShowRequest,
    OllamaStatus,
    OllamaVersion,
)
from quire.server.service import service_of

_API_VERSION = "0.12.11"
"""The release of Ollama whose API is followed; clients ask for a least one."""

_REFUSED = {
    "/api/push": "this server has no library to push to",
    "/api/create": "this server makes no models: start it with the one that you want",
    "/api/copy": "this server has one model: give it more names with --served-model-name",
    "/api/delete": "this server has one model, and keeps it",
    "/api/embed": "this server computes no embeddings",
    "/api/embeddings": "this server computes no embeddings",
}


async def root(request: Request) -> Response:
    return PlainTextResponse("Ollama is running")


async def version(request: Request) -> Response:
    return json_response(OllamaVersion(_API_VERSION))


async def tags(request: Request) -> Response:
    return json_response(models(service_of(request)))


async def ps(request: Request) -> Response:
    return json_response(processes(service_of(request)))


async def show(request: Request) -> Response:
    service = service_of(request)
    body = await read_json(request, OllamaShowRequest, of_any_type=True)
    check_name(service, _named(body.model or body.name))
    return json_response(shown(service))


async def pull(request: Request) -> Response:
    service = service_of(request)
    body = await read_json(request, OllamaPullRequest, of_any_type=True)
    name = _named(body.model or body.name)
    try:
        check_name(service, name)
    except ModelNotFound as error:
        raise Unsupported(
            f"{error.message} It fetches no others while it runs: start it with the one that you want.", param="$.model"
        ) from None
    done = OllamaStatus("success")
    return Response(encode(done) + b"\n", media_type=OLLAMA.stream_type) if body.stream else json_response(done)


async def refused(request: Request) -> Response:
    path = request.scope["route"].path
    raise Unsupported(f"{path} is not supported: {_REFUSED[path]}.")


def _named(name: str) -> str:
    if not name:
        raise InvalidRequest("$.model is missing: it is required.", param="$.model")
    return name


ENDPOINTS = (
    Endpoint(path="/", handler=root, summary="Says that it is running, in Ollama's words"),
    Endpoint(path="/api/version", handler=version, summary="The version of Ollama's API", answer=OllamaVersion),
    Endpoint(path="/api/tags", handler=tags, summary="The models served here, for Ollama", answer=OllamaModels),
    Endpoint(path="/api/ps", handler=ps, summary="The models that are loaded, for Ollama", answer=OllamaProcesses),
    Endpoint(
        path="/api/show",
        methods=("POST",),
        handler=show,
        summary="All about a model, for Ollama",
        body=OllamaShowRequest,
        answer=OllamaShown,
        errors=(404,),
    ),
    Endpoint(
        path="/api/pull",
        methods=("POST",),
        handler=pull,
        summary="Says that a served model is there",
        body=OllamaPullRequest,
        answer=OllamaStatus,
        chunk=OllamaStatus,
    ),
    *(
        Endpoint(
            path=path,
            methods=("DELETE",) if path == "/api/delete" else ("POST",),
            handler=refused,
            summary=f"Refused: {why}",
            answer=OllamaStatus,
        )
        for path, why in _REFUSED.items()
    ),
)
