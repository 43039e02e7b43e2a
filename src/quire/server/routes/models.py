"""``GET /v1/models`` and ``/v1/models/{id}``: as OpenAI's API has them, or Anthropic's.

A client that sends the header ``anthropic-version`` is of the latter's.
"""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from quire.core.errors import InvalidRequest
from quire.server.answers.timestamps import rfc3339
from quire.server.endpoint import Endpoint
from quire.server.faces import ANTHROPIC
from quire.server.responses import face_for, json_response
from quire.server.schema.anthropic import AnthropicModel, AnthropicModelList
from quire.server.schema.models import ModelCard, ModelList, ModelPermission
from quire.server.service import Service, service_of

_PAGE_LIMIT = 1000


async def list_models(request: Request) -> Response:
    service = service_of(request)
    if face_for(request.scope) is ANTHROPIC:
        return json_response(_page(service, request))
    return json_response(ModelList(data=[_card(service, name) for name in service.served_names]))


async def retrieve_model(request: Request) -> Response:
    service = service_of(request)
    name: str = request.path_params["id"]
    service.model(name)
    if face_for(request.scope) is ANTHROPIC:
        return json_response(_anthropic_model(service, name))
    return json_response(_card(service, name))


def _card(service: Service, name: str) -> ModelCard:
    return ModelCard(
        id=name,
        created=service.created,
        root=service.llm.config.model.model,
        max_model_len=service.llm.info.max_model_len,
        permission=[ModelPermission(id=f"modelperm-{name}", created=service.created)],
    )


def _anthropic_model(service: Service, name: str) -> AnthropicModel:
    length = service.llm.info.max_model_len
    created_at = rfc3339(service.created)
    return AnthropicModel(id=name, display_name=name, created_at=created_at, max_input_tokens=length, max_tokens=length)


def _page(service: Service, request: Request) -> AnthropicModelList:
    query, names = request.query_params, service.served_names
    limit = query.get("limit", str(_PAGE_LIMIT))
    if not limit.isdecimal() or not 1 <= int(limit[:9]) <= _PAGE_LIMIT:
        raise InvalidRequest(f"limit is {limit[:80]!r}: it must be from 1 to {_PAGE_LIMIT}.", param="limit")
    first, last = 0, len(names)
    if "after_id" in query:
        first = _place(names, "after_id", query["after_id"]) + 1
    if "before_id" in query:
        last = _place(names, "before_id", query["before_id"])
        first = max(first, last - int(limit))
    shown = names[first:last][: int(limit)]
    return AnthropicModelList(
        data=[_anthropic_model(service, name) for name in shown],
        has_more=first > 0 if "before_id" in query else first + len(shown) < last,
        first_id=shown[0] if shown else None,
        last_id=shown[-1] if shown else None,
    )


def _place(names: Sequence[str], field: str, name: str) -> int:
    if name not in names:
        raise InvalidRequest(f"{field} is {name[:200]!r}: it must be the id of a model that is listed.", param=field)
    return names.index(name)


ENDPOINTS = (
    Endpoint(
        path="/v1/models",
        handler=list_models,
        summary="The models served here",
        answer=(ModelList, AnthropicModelList),
    ),
    Endpoint(
        path="/v1/models/{id:path}",
        handler=retrieve_model,
        summary="One model's card",
        answer=(ModelCard, AnthropicModel),
        errors=(404,),
    ),
)
