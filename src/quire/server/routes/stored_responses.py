"""``/v1/responses/{id}``: stored responses read again, followed, cancelled, deleted, and their input listed."""

from collections.abc import AsyncIterator, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from quire.core.errors import InvalidRequest, NotFound
from quire.server.endpoint import Endpoint
from quire.server.query import read_query
from quire.server.response_runs import event_stream
from quire.server.response_store import NamedItem, PreviousResponseNotFound, ResponseNotFound
from quire.server.responses import json_response
from quire.server.schema.response_events import ResponseEvent
from quire.server.schema.responses import DeletedResponse, InputItemsQuery, ItemList, ResponseObject, RetrieveQuery
from quire.server.service import request_id_of, service_of


async def retrieve_response(request: Request) -> Response:
    service = service_of(request)
    id: str = request.path_params["id"]
    query = read_query(request, RetrieveQuery)
    after = -1 if query.starting_after is None else query.starting_after
    run = service.responses.running.get(id)
    if run is not None:
        if not query.stream:
            return json_response(run.response)
        events = run.follow(after) if run.has_events else None
    else:
        kept = service.responses.get(id)
        if not query.stream:
            return _json(kept.answer)
        events = _once(kept.events[after + 1 :]) if kept.events is not None else None
    if events is None:
        raise InvalidRequest(
            f"The response {id!r:.80} has no stream: only those made with both background and stream keep theirs. "
            "Leave stream out.",
            param="stream",
        )
    return event_stream(service, events, lambda: None, request_id_of(request))


async def delete_response(request: Request) -> Response:
    """One that is being made is cancelled first."""
    store = service_of(request).responses
    id: str = request.path_params["id"]
    if (run := store.running.get(id)) is not None:
        await run.cancel()
    store.delete(id)
    return json_response(DeletedResponse(id=id))


async def cancel_response(request: Request) -> Response:
    """Cancelling one that is over changes nothing."""
    store = service_of(request).responses
    id: str = request.path_params["id"]
    if (run := store.running.get(id)) is not None:
        return json_response(await run.cancel())
    kept = store.get(id)
    if not kept.is_background:
        raise InvalidRequest(
            f"Cannot cancel a synchronous response. {id!r:.80} was not made in the background: to end such a one, "
            "close its connection.",
            param="$.response_id",
        )
    return _json(kept.answer)


async def list_input_items(request: Request) -> Response:
    """All that the response answered, with the conversation that it continues."""
    store = service_of(request).responses
    id: str = request.path_params["id"]
    query = read_query(request, InputItemsQuery)
    if (run := store.running.get(id)) is not None:
        own, previous_id = run.input, run.response.previous_response_id
    else:
        kept = store.get(id)
        own, previous_id = kept.input, kept.previous_id
    try:
        history = store.history(previous_id) if previous_id is not None else []
    except PreviousResponseNotFound as error:
        raise ResponseNotFound(error.message, param="$.response_id") from None
    items = [*(item for earlier in history for item in earlier.items), *own]
    if query.order == "desc":
        items.reverse()
    return json_response(_page(items, query.limit, query.after))


def _page(items: Sequence[NamedItem], limit: int, after: str | None) -> ItemList:
    begin = 0
    if after is not None:
        ids = [item_id for item_id, _ in items]
        if after not in ids:
            raise NotFound(
                f"The query parameter after is {after!r:.80}: it should be the id of an item of the list.",
                param="after",
            )
        begin = ids.index(after) + 1
    page = items[begin : begin + limit]
    return ItemList(
        data=[msgspec.Raw(item) for _, item in page],
        first_id=page[0][0] if page else None,
        last_id=page[-1][0] if page else None,
        has_more=begin + limit < len(items),
    )


async def _once(frames: Sequence[bytes]) -> AsyncIterator[bytes]:
    yield b"".join(frames)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


ENDPOINTS = (
    Endpoint(
        path="/v1/responses/{id}",
        handler=retrieve_response,
        summary="A stored response",
        query=RetrieveQuery,
        answer=ResponseObject,
        chunk=ResponseEvent,
        errors=(404,),
    ),
    Endpoint(
        path="/v1/responses/{id}",
        methods=("DELETE",),
        handler=delete_response,
        summary="Forget a stored response",
        answer=DeletedResponse,
        errors=(404,),
    ),
    Endpoint(
        path="/v1/responses/{id}/cancel",
        methods=("POST",),
        handler=cancel_response,
        summary="End a response that is being made in the background",
        answer=ResponseObject,
        errors=(404,),
    ),
    Endpoint(
        path="/v1/responses/{id}/input_items",
        handler=list_input_items,
        summary="What a stored response answered",
        query=InputItemsQuery,
        answer=ItemList,
        errors=(404,),
    ),
)
