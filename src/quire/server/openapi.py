"""The OpenAPI document, generated from the endpoints and their schemas; every status a route can answer is in it."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from pydantic.json_schema import models_json_schema

from quire.server.endpoint import Endpoint
from quire.server.faces import Face, face_of, faces_of
from quire.version import __version__

_REF = "#/components/schemas/"
_ANY_ROUTE = (400, 401, 403, 405, 431, 500, 503)
_WITH_BODY = (408, 413, 415)
_PHRASES = {529: "Overloaded"}
"""Of statuses that no standard knows."""


def openapi(endpoints: Sequence[Endpoint], *, needs_key: bool) -> dict[str, Any]:
    """An OpenAPI 3.1 document as plain data."""
    bodies = [endpoint.body for endpoint in endpoints if endpoint.body is not None]
    _, defined = models_json_schema([(body, "validation") for body in bodies], ref_template=_REF + "{model}")
    answers = [kind for e in endpoints for answer in (e.answer, e.chunk) for kind in _kinds(answer)]
    answers += list(dict.fromkeys(face.error_type for e in endpoints for face in faces_of(e.path)))
    shapes, components = msgspec.json.schema_components(answers, ref_template=_REF + "{name}")
    by_answer = {str(kind): shape for kind, shape in zip(answers, shapes, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = endpoint.path.replace(":path}", "}")
        operations = {method.lower(): _operation(endpoint, method, by_answer) for method in endpoint.methods}
        paths.setdefault(path, {}).update(operations)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Quire", "version": __version__},
        "paths": paths,
        "components": {"schemas": defined.get("$defs", {}) | components},
    }
    if needs_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _operation(endpoint: Endpoint, method: str, by_answer: dict[str, Any]) -> dict[str, Any]:
    errors = [by_answer[str(face.error_type)] for face in faces_of(endpoint.path)]
    content: dict[str, Any] = {}
    if endpoint.answer is not None:
        content["application/json"] = {"schema": _any_of([by_answer[str(kind)] for kind in _kinds(endpoint.answer)])}
    if endpoint.chunk is not None:
        face = face_of(endpoint.path)
        content[face.stream_type] = {"schema": _event(face, _any_of([by_answer[str(endpoint.chunk)], *errors]))}
    if not content:
        content["text/html" if endpoint.path == "/docs" else "text/plain"] = {"schema": {"type": "string"}}
    failure = {"application/json": {"schema": _any_of(errors)}}
    statuses = {*_ANY_ROUTE, *endpoint.errors, *(_WITH_BODY if endpoint.body else ())}
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": f"{method.lower()}_{endpoint.handler.__name__}_{endpoint.path.strip('/').replace('/', '_')}",
        "responses": {"200": {"description": "OK", "content": content}}
        | {
            str(s): {"description": _PHRASES.get(s) or HTTPStatus(s).phrase, "content": failure}
            for s in sorted(statuses)
        },
    }
    if endpoint.is_open:
        operation["security"] = []
    if endpoint.body is not None:
        schema = {"$ref": _REF + endpoint.body.__name__}
        required = not endpoint.is_body_optional
        operation["requestBody"] = {"required": required, "content": {"application/json": {"schema": schema}}}
    if "{id" in endpoint.path:
        operation["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
    if endpoint.query is not None:
        fields = endpoint.query.model_json_schema()["properties"]
        operation["parameters"] = operation.get("parameters", []) + [
            {"name": name, "in": "query", "required": False, "schema": field, "description": field.pop("description")}
            for name, field in fields.items()
        ]
    return operation


def _event(face: Face, said: Any) -> Any:
    """One event of a stream. What fails once it has begun is told as an event too."""
    if face.stream_type != "text/event-stream":
        return said
    data: Any = {"type": "string", "contentMediaType": "application/json", "contentSchema": said}
    if face.end:
        data = {"anyOf": [{"const": face.end.decode().removeprefix("data: ").strip()}, data]}
    return {"type": "object", "properties": {"data": data}, "required": ["data"]}


def _kinds(answer: Any) -> tuple[Any, ...]:
    if answer is None:
        return ()
    return answer if isinstance(answer, tuple) else (answer,)


def _any_of(schemas: list[Any]) -> Any:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
