"""The shape that a request asks its answer to have, under every name that it goes by.

``response_format`` is OpenAI's, ``structured_outputs`` and ``guided_*`` are vLLM's, ``regex``, ``ebnf`` and
``json_schema`` SGLang's, ``grammar`` and again ``json_schema`` llama.cpp's, ``text.format`` the Responses API's. A
request gives one of them. Law: an error of the engine's door about the shape names the field that the client wrote.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from quire.core.errors import InvalidRequest, QuireError, Unsupported
from quire.core.structured_outputs import SHAPES, StructuredOutputs
from quire.server.schema.faults import bad, expect

if TYPE_CHECKING:
    from quire.server.schema.generation import GenerationRequest

_OURS = "$.structured_outputs"


class Shape(msgspec.Struct, frozen=True):
    """A shape, and where the request says it."""

    wanted: StructuredOutputs
    path: str
    """Of the value that ``wanted`` holds."""

    @contextmanager
    def named(self) -> Iterator[None]:
        """Let errors name the client's field where they name ours."""
        ours = f"{_OURS}.{self.wanted.shape}"
        try:
            yield
        except QuireError as error:
            if error.param is not None and error.param.startswith(_OURS):
                theirs = self.path + error.param.removeprefix(ours) if error.param.startswith(ours) else self.path
                error.message = error.message.replace(error.param, theirs)
                error.param = theirs
            raise


def shape_of(body: "GenerationRequest") -> Shape | None:
    """What is asked for, or None; raises InvalidRequest for two shapes at once, or one that is malformed."""
    readers: dict[str, Callable[[Any], Shape | None]] = {
        "response_format": _response_format,
        "structured_outputs": structured_outputs_of,
        "guided_json": lambda v: _one("json", v, "guided_json", body.guided_whitespace_pattern),
        "guided_regex": lambda v: _one("regex", v, "guided_regex"),
        "guided_choice": lambda v: _one("choice", tuple(v), "guided_choice"),
        "guided_grammar": lambda v: _one("grammar", v, "guided_grammar"),
        "guided_json_object": lambda v: _one("json_object", v, "guided_json_object", body.guided_whitespace_pattern),
        "json_schema": lambda v: _one("json", v, "json_schema"),
        "regex": lambda v: _one("regex", v, "regex"),
        "ebnf": lambda v: _one("grammar", v, "ebnf"),
        "grammar": lambda v: _one("grammar", v, "grammar"),
    }
    found: dict[str, Shape] = {}
    for name, read in readers.items():
        value = getattr(body, name)
        if value not in (None, "", False, [], {}) and (shape := read(value)) is not None:
            found[name] = shape
    return only_one(found)


def only_one(found: Mapping[str, Shape]) -> Shape | None:
    """The one that there is, by its field's name; raises InvalidRequest for two."""
    if len(found) > 1:
        first, second, *_ = found
        raise InvalidRequest(
            f"{first} and {second} are both given: an answer can have one shape only.", param=f"$.{second}"
        )
    return next(iter(found.values()), None)


def json_schema_of(value: Any, path: str) -> StructuredOutputs:
    """``{"name", "schema", "strict"}``: what of a schema cannot be enforced is let go, unless it is strict."""
    if not isinstance(value, dict):
        raise bad(path, value, "must be an object with a name and a schema")
    if not isinstance(value.get("name"), str) or not value["name"]:
        raise bad(f"{path}.name", value.get("name"), "must be the schema's name")
    if not isinstance(value.get("schema"), dict):
        raise bad(f"{path}.schema", value.get("schema"), "must be a JSON schema, an object")
    strict = value.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise bad(f"{path}.strict", strict, "must be true or false")
    return StructuredOutputs(json=value["schema"], is_lenient=not strict)


def _response_format(value: dict[str, Any]) -> Shape | None:
    path = "$.response_format"
    match value.get("type"):
        case "text":
            return None
        case "json_object" if value.get("schema") is None:
            return Shape(StructuredOutputs(json_object=True), path)
        case "json_object":  # as llama.cpp's clients write a schema
            schema = expect(value["schema"], dict, f"{path}.schema", "must be a JSON schema, an object")
            return Shape(StructuredOutputs(json=schema), f"{path}.schema")
        case "json_schema":
            return Shape(json_schema_of(value.get("json_schema"), f"{path}.json_schema"), f"{path}.json_schema.schema")
        case "structural_tag":
            return Shape(StructuredOutputs(structural_tag=value), path)
        case kind:
            raise Unsupported(
                f"{path}.type is {kind!r:.80}: it must be text, json_object, json_schema or structural_tag.",
                param=f"{path}.type",
            )


def structured_outputs_of(value: dict[str, Any]) -> Shape:
    """Raises InvalidRequest, or Unsupported for what is not known."""
    names = {field.name for field in msgspec.structs.fields(StructuredOutputs)}
    present = {name: inner for name, inner in value.items() if inner is not None}
    for name in present.keys() - names:
        raise Unsupported(f"{_OURS}.{name:.80} is not known: use {', '.join(SHAPES)}.", param=f"{_OURS}.{name:.80}")
    try:
        wanted = msgspec.convert(present, StructuredOutputs)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InvalidRequest):
            raise error.__cause__ from None
        raise InvalidRequest(f"{_OURS} cannot be read: {error}.", param=_OURS) from None
    return Shape(wanted, f"{_OURS}.{wanted.shape}")


def _one(shape: str, value: Any, name: str, whitespace_pattern: str | None = None) -> Shape:
    return Shape(StructuredOutputs(**{shape: value}, whitespace_pattern=whitespace_pattern), f"$.{name}")
