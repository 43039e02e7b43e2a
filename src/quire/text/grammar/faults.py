"""Why a grammar was refused, in words that a client can use: the path of what is at fault, and what to do.

llguidance says what it cannot do, but not where in a schema; the place is found by the keyword that it names.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from quire.core.errors import InvalidRequest, Unsupported
from quire.text.grammar.json_schema import Schema, find_keyword

_MAX_SHOWN_CHARS = 400
_MAX_SHOWN_PATHS = 5

_POSITION = re.compile(r"^(?:at )?(\d+)\((\d+)\): ")
_SOURCE = re.compile(r"\n +\d+ \| .*", re.DOTALL)
_WORDS = (
    (re.compile(r"NoExtension"), "no answer can match it"),
    (
        re.compile(r"Current row has \d+ items"),
        "it has too many alternatives in one place (an object may have some 490 optional properties)",
    ),
    (
        re.compile(
            r"too many (?:expressions|states|items)|fuel|too big|too large|precomputation failed|Too many items", re.I
        ),
        "it is too complex to be checked in time at every token: simplify it, or repeat less of it",
    ),
)


class Fault(NamedTuple):
    """What of a schema cannot be enforced: the keyword in its schema, and where that stands."""

    schema: Schema
    keyword: str
    path: str


def reason(error: str) -> str:
    """llguidance's message without what is of no use to a client."""
    for pattern, words in _WORDS:
        if pattern.search(error):
            return words
    text = _SOURCE.sub("", error).removesuffix("<non-verbose/>")
    text = _POSITION.sub("", text).removeprefix("failed to compile JSON schema: ")
    text = text.split("\n  while processing ")[0]
    text = " ".join(text.split())
    return text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "..."


def place(error: str) -> str:
    """Where in a Lark grammar its author has to look, if the message says so."""
    found = _POSITION.match(error)
    return f" (line {found[1]}, column {found[2]})" if found else ""


def find_faults(error: str, schema: Any, path: str) -> list[Fault]:
    """The keywords that an error speaks of; none for one that speaks of no keyword."""
    for pattern, matcher in _KEYWORDS:
        if found := pattern.search(error):
            is_it = matcher(found, error)
            if faults := [Fault(*one) for one in find_keyword(schema, path, is_it)]:
                return faults
    return []


def refusal(error: str, path: str, faults: list[Fault], *, where: str = "") -> InvalidRequest:
    """The error for a client; ``path`` is that of the whole, ``where`` says more about the place."""
    why = reason(error)
    if not faults:
        return InvalidRequest(f"{path} cannot be honoured{where}: {why}.", param=path)
    shown = [fault.path for fault in faults[:_MAX_SHOWN_PATHS]]
    more = f" and {len(faults) - len(shown)} more" if len(faults) > len(shown) else ""
    return Unsupported(f"{', '.join(shown)}{more} cannot be enforced: {why}.", param=shown[0])


_Test = Callable[[str, Any], bool]


def _named(found: re.Match[str], error: str) -> _Test:
    names = re.findall(r'"([^"]+)"', found[1])
    return lambda keyword, value: keyword in names


def _captured(found: re.Match[str], error: str) -> _Test:
    return lambda keyword, value: keyword == found[1]


def _these(*names: str) -> Callable[[re.Match[str], str], _Test]:
    return lambda found, error: lambda keyword, value: keyword in names


def _with_value(name: str) -> Callable[[re.Match[str], str], _Test]:
    """The keyword ``name``, where its value is the one in the message or ends with it."""

    def matcher(found: re.Match[str], error: str) -> _Test:
        def is_it(keyword: str, value: Any) -> bool:
            each = value if isinstance(value, list) else [value]
            return keyword == name and any(isinstance(one, str) and one.endswith(found[1]) for one in each)

        return is_it

    return matcher


def _regexes(found: re.Match[str], error: str) -> _Test:
    def is_it(keyword: str, value: Any) -> bool:
        if keyword == "pattern":
            return isinstance(value, str) and value in error
        return keyword == "patternProperties" and any(pattern in error for pattern in value)

    return is_it


_KEYWORDS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], str], _Test]], ...] = (
    (re.compile(r"Unimplemented keys: \[(.*?)\]"), _named),
    (re.compile(r"Unknown format: (.+)"), _with_value("format")),
    (re.compile(r"Invalid type: (.+)"), _with_value("type")),
    (re.compile(r"Pointer '(.*?)' does not exist"), _with_value("$ref")),
    (re.compile(r"Resource '(?:json-schema:///)?(.*?)' is not present"), _with_value("$ref")),
    (re.compile(r"oneOf constraints"), _these("oneOf")),
    (re.compile(r"min/maxProperties"), _these("minProperties", "maxProperties")),
    (re.compile(r"patternProperty regexes"), _these("patternProperties")),
    (re.compile(r"regex parse error|lookarounds|invalid regex|in regex"), _regexes),
    (re.compile(r"relevance of lexemes|invalid multiple of"), _these("multipleOf")),
    (
        re.compile(r"regex for (?:float|integer) range"),
        _these("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    ),
    (re.compile(r"for '(\w+)'"), _captured),
    (re.compile(r"^(?:at [\d()]+: failed to compile JSON schema: )?(\$?\w+) must be"), _captured),
)


def drop(faults: list[Fault]) -> Iterator[str]:
    """Take what cannot be enforced out of its schema; the paths."""
    for fault in faults:
        fault.schema.pop(fault.keyword, None)
        yield fault.path


_MALFORMED = re.compile(r"Invalid type|must be|Expected|Pointer|Resource|Unsatisfiable|invalid multiple of")


def is_malformed(error: str) -> bool:
    """The schema is wrong, rather than more than can be enforced."""
    return _MALFORMED.search(error) is not None
