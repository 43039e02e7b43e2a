"""``GET /v1/models`` and ``/v1/models/{id}``."""

from starlette.requests import Request
from starlette.responses import Response

from quire.server.endpoint import Endpoint
from quire.server.responses import json_response
from quire.server.schema.models import ModelCard, ModelList, ModelPermission
from quire.server.service import Service, service_of


async def list_models(request: Request) -> Response:
    service = service_of(request)
    return json_response(ModelList(data=[_card(service, name) for name in service.served_names]))


async def retrieve_model(request: Request) -> Response:
    service = service_of(request)
    name: str = request.path_params["id"]
    service.model(name)
    return json_response(_card(service, name))


def _card(service: Service, name: str) -> ModelCard:
    return ModelCard(
        id=name,
        created=service.created,
        root=service.llm.config.model.model,
        max_model_len=service.llm.info.max_model_len,
        permission=[ModelPermission(id=f"modelperm-{name}", created=service.created)],
    )


ENDPOINTS = (
    Endpoint(path="/v1/models", handler=list_models, summary="The models served here", answer=ModelList),
    Endpoint(
        path="/v1/models/{id:path}",
        handler=retrieve_model,
        summary="One model's card",
        answer=ModelCard,
        errors=(404,),
    ),
)
