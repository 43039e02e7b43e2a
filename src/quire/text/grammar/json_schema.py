"""JSON schemas on their way to llguidance: read, checked for form, and freed of what says nothing.

What llguidance cannot enforce it refuses by the keyword; ``find_keyword`` says where in the schema that stands. Paths
are JSON paths within the schema, with ``$`` for the schema itself left to the caller.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from quire.core.errors import InvalidRequest, Unsupported
from quire.text.grammar.limits import MAX_NESTING
from quire.text.nesting import is_deeper

Schema = dict[str, Any]

_IN_MAPS = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_IN_LISTS = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
_IN_PLACE = frozenset(
    (
        *("items", "additionalProperties", "additionalItems", "contains", "propertyNames", "not", "if", "then", "else"),
        *("unevaluatedProperties", "unevaluatedItems", "contentSchema"),
    )
)
OPTIONS = "x-guidance"
"""The key of a schema under which llguidance finds its options."""
_NO_LIMIT: Mapping[str, tuple[object, ...]] = {
    "uniqueItems": (False,),
    "propertyNames": (True, {}),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
    "not": (False,),
    "format": ("float", "double", "password"),
}
"""Keywords and the values with which they allow everything."""
_WORD = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*")


def read_schema(value: Any, path: str) -> Any:
    """A schema given as an object or as JSON text. Raises InvalidRequest for text that is no JSON."""
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, UnicodeEncodeError) as error:
        raise InvalidRequest(f"{path} is not valid JSON: {error}.", param=path) from None
    except RecursionError:
        raise _too_deep(path) from None


def written(value: Any, path: str) -> str:
    """A value as JSON text. Raises InvalidRequest for what is no JSON."""
    try:
        return msgspec.json.encode(value).decode()
    except RecursionError:
        raise _too_deep(path) from None
    except (TypeError, ValueError, UnicodeEncodeError) as error:
        raise InvalidRequest(f"{path} cannot be written as JSON: {error}.", param=path) from None


def prepare(schema: Any, path: str, *, is_closed: bool) -> Schema:
    """A copy of a schema, checked for form. ``is_closed``: objects that list their properties have no others.

    Raises InvalidRequest with the path of what is not formed like a schema.
    """
    if schema is True:
        return {}
    if schema is False:
        raise InvalidRequest(f"{path} is false: no answer could match it.", param=path)
    check_nesting(schema, path)
    prepared = _copy(schema, path, is_closed)
    if OPTIONS in prepared:
        raise Unsupported(
            f'{path} has "{OPTIONS}": give whitespace_pattern or disable_any_whitespace instead.', param=path
        )
    return prepared


def check_nesting(value: Any, path: str) -> None:
    """Raise InvalidRequest for a value whose objects and lists are nested too deeply."""
    if is_deeper(value, MAX_NESTING):
        raise _too_deep(path)


def find_keyword(schema: Any, path: str, is_it: Callable[[str, Any], bool]) -> Iterator[tuple[Schema, str, str]]:
    """Where keywords stand for which ``is_it(keyword, value)``: the schema, the keyword, its path."""
    if not isinstance(schema, dict):
        return
    for keyword, value in list(schema.items()):
        if is_it(keyword, value):
            yield schema, keyword, member(path, keyword)
    for _, inner, inner_path in _subschemas(schema, path):
        yield from find_keyword(inner, inner_path, is_it)


def member(path: str, name: str | int) -> str:
    """The path of a member of what is at ``path``."""
    if isinstance(name, int):
        return f"{path}[{name}]"
    return f"{path}.{name}" if _WORD.fullmatch(name) else f"{path}[{name[:40]!r}]"


def _too_deep(path: str) -> InvalidRequest:
    return InvalidRequest(f"{path} is nested more than {MAX_NESTING} deep: flatten it.", param=path)


def _copy(schema: Any, path: str, is_closed: bool) -> Schema:
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{path} is {schema!r:.80}: a schema is an object, true or false.", param=path)
    for keyword in ("exclusiveMinimum", "exclusiveMaximum"):
        if isinstance(schema.get(keyword), bool):
            where = member(path, keyword)
            raise InvalidRequest(f"{where} is {schema[keyword]}: it must be the limit itself, a number.", param=where)
    copied = {
        keyword: value for keyword, value in schema.items() if not any(value == no for no in _NO_LIMIT.get(keyword, ()))
    }
    for put, inner, inner_path in _subschemas(copied, path):
        put(inner if isinstance(inner, bool) else _copy(inner, inner_path, is_closed))
    if is_closed and "properties" in copied and "additionalProperties" not in copied:
        copied["additionalProperties"] = False
    return copied


def _subschemas(schema: Schema, path: str) -> Iterator[tuple[Callable[[Any], None], Any, str]]:
    """Schemas directly within a schema: a way to replace each in ``schema``, itself, its path.

    Lists and objects that hold schemas are replaced by copies before theirs are put.
    """
    for keyword, value in list(schema.items()):
        where = member(path, keyword)
        if keyword in _IN_MAPS:
            if not isinstance(value, dict):
                raise InvalidRequest(f"{where} is {value!r:.80}: it must be an object of schemas.", param=where)
            schema[keyword] = inner = dict(value)
            for name, one in value.items():
                yield _setter(inner, name), one, member(where, name)
        elif keyword in _IN_LISTS or (keyword == "items" and isinstance(value, list)):
            if not isinstance(value, list):
                raise InvalidRequest(f"{where} is {value!r:.80}: it must be a list of schemas.", param=where)
            schema[keyword] = listed = list(value)
            for i, one in enumerate(value):
                yield _setter(listed, i), one, member(where, i)
        elif keyword in _IN_PLACE:
            yield _setter(schema, keyword), value, where


def _setter(into: Any, key: Any) -> Callable[[Any], None]:
    def put(value: Any) -> None:
        into[key] = value

    return put
