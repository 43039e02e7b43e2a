"""Bytes become a validated request: content type, JSON, refused fields, types; every fault with its JSON path.

msgspec parses (it takes no NaN, no lone surrogates, no invalid UTF-8), pydantic checks types strictly.
"""

import asyncio
import logging
import re
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from quire.core.errors import InvalidRequest, RequestTimeout, UnsupportedMediaType
from quire.server.schema.faults import shown
from quire.server.schema.refused import Refusals, refuse
from quire.server.service import service_of
from quire.text.nesting import MAX_NESTING, is_deeper

log = logging.getLogger("quire.server")

_SHOWN_FAULTS = 5
_SUBJECT = re.compile(r"^[A-Z]\w* should ")
"""How pydantic begins a rule: Input should, List should."""


M = TypeVar("M", bound=BaseModel)


async def read_json(request: Request, model: type[M], *, of_any_type: bool = False) -> M:
    """The request's body as ``model``.

    ``of_any_type``: JSON need not be called so, unless by a browser, whose pages may send other types to any server.
    Raises UnsupportedMediaType, RequestTimeout, RequestTooLarge, InvalidRequest or Unsupported; ClientDisconnect when
    nobody is there any more.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = kind == "application/json" or kind.endswith("+json")
    if not is_json and not (of_any_type and "origin" not in request.headers):
        shown = f"is {kind!r}" if kind else "is missing"
        raise UnsupportedMediaType(
            f"The Content-Type header {shown}: send JSON with Content-Type: application/json (curl: -H)."
        )
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise UnsupportedMediaType(
            f"The Content-Encoding header is {encoding!r:.60}: bodies are read as they are, so send it uncompressed."
        )
    timeout_s = service_of(request).config.header_timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            body = await request.body()
    except TimeoutError:
        raise RequestTimeout(f"The request's body did not arrive within {timeout_s:g} s: send it faster.") from None
    return validate(parse(body), model)


async def read_optional_json(request: Request, model: type[M]) -> M:
    """The same; without a body, the model's defaults."""
    headers = request.headers
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return validate({}, model)
    return await read_json(request, model)


def parse(body: bytes) -> dict[str, Any]:
    """A JSON object; raises InvalidRequest on anything else."""
    if not body:
        raise InvalidRequest("The body is empty: send a JSON object.", param="$")
    try:
        data = msgspec.json.decode(body)
    except RecursionError:
        raise _too_deep() from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8: {error.reason} near byte {error.start}.", param="$") from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", param="$") from None
    if body.count(b"{") + body.count(b"[") > MAX_NESTING and is_deeper(data, MAX_NESTING):
        raise _too_deep()
    if not isinstance(data, dict):
        raise InvalidRequest(f"The body is {shown(data)}: it must be a JSON object.", param="$")
    return data


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"The body is nested more than {MAX_NESTING} deep: flatten it.", param="$")


def validate(data: dict[str, Any], model: type[M], root: str = "$") -> M:
    """The parsed object as ``model``; null fields count as absent, unknown hints are ignored with a debug line.

    ``root``: its own path, where it is part of something.
    """
    refusals: Refusals = getattr(model, "refused", {})
    refuse(data, refusals, root)
    unknown = data.keys() - model.model_fields.keys()
    if unknown and log.isEnabledFor(logging.DEBUG):
        log.debug("ignored fields: %s", ", ".join(sorted(ascii(name[:40]) for name in unknown)))
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _invalid(error.errors(include_url=False), data, root) from None


def _invalid(faults: list[ErrorDetails], data: dict[str, Any], root: str) -> InvalidRequest:
    # A union reports each alternative. The one that was meant went deepest into the value; of those, the one that does
    # not ask for another type.
    deepest: dict[Any, tuple[str, str]] = {}
    depths: dict[Any, tuple[int, bool]] = {}
    for fault in faults:
        field = fault["loc"][0] if fault["loc"] else root
        path, steps = _path(fault, data, root)
        depth = (steps, not fault["type"].endswith("_type"))
        if depth > depths.get(field, (-1, False)):
            depths[field] = depth
            deepest[field] = (path, _sentence(path, fault))
    told = list(deepest.values())[:_SHOWN_FAULTS]
    more = len(deepest) - len(told)
    message = " ".join(sentence for _, sentence in told) + (f" ({more} more faults)" if more else "")
    return InvalidRequest(message, param=told[0][0])


def _sentence(path: str, fault: ErrorDetails) -> str:
    if fault["type"] in ("missing", "union_tag_not_found"):
        return f"{path} is missing: it is required."
    if fault["type"] == "union_tag_invalid":
        return f"{path} is {shown(fault['ctx']['tag'])}: it must be one of {fault['ctx']['expected_tags']}."
    return f"{path} is {shown(fault['input'])}: it should {rule_of(fault)}."


def rule_of(fault: ErrorDetails) -> str:
    """What pydantic asks of a value, to stand behind "it should"."""
    return _SUBJECT.sub("", fault["msg"]).replace(" after validation", "")


def _path(fault: ErrorDetails, data: Any, root: str) -> tuple[str, int]:
    """The fault's JSON path and how deep it is; what pydantic adds for the alternatives of a union is left out."""
    path, depth = root, 0
    last = len(fault["loc"]) - 1
    for i, step in enumerate(fault["loc"]):
        is_missing = i == last and fault["type"] == "missing"
        if isinstance(data, list) and isinstance(step, int):
            path, data = f"{path}[{step}]", data[step] if step < len(data) else None
        elif isinstance(data, dict) and isinstance(step, str) and (step in data or is_missing):
            path, data = f"{path}.{step:.40}", data.get(step)
        else:
            continue
        depth += 1
    tag = fault.get("ctx", {}).get("discriminator")
    return (path, depth) if tag is None else (f"{path}.{tag[1:-1]}", depth + 1)
