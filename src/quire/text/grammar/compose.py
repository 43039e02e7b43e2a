"""A request's StructuredOutputs become a piece of grammar.

What can be said without compiling is said here: wrong forms, with their paths, and options that the shape cannot take.
Whether the grammar can be run is for ``door`` to find out.
"""

from collections.abc import Mapping
from typing import Any

from quire.core.errors import InvalidRequest, Unsupported
from quire.core.structured_outputs import MAX_CHOICES, MAX_GRAMMAR_CHARS, StructuredOutputs
from quire.text.grammar import json_schema
from quire.text.grammar.ebnf import grammar_of
from quire.text.grammar.lark import (
    WHITESPACE,
    Piece,
    either,
    json_piece,
    regex_piece,
    text_piece,
)
from quire.text.grammar.structural_tag import structural_tag_piece

PATH = "$.structured_outputs"

_JSON_SHAPES = ("json", "json_object", "structural_tag")
_OPTIONS = ("disable_any_whitespace", "whitespace_pattern", "disable_additional_properties")


def compose(wanted: StructuredOutputs, special: Mapping[str, int]) -> Piece:
    """The grammar of an answer of the shape that is wanted; ``special``: ids of special tokens by their names.

    Raises InvalidRequest or Unsupported, with the path of what is at fault under ``$.structured_outputs``.
    """
    shape = wanted.shape
    path = f"{PATH}.{shape}"
    value: Any = getattr(wanted, shape)
    _check_options(wanted, shape)
    match shape:
        case "json":
            _check_chars(value, path)
            return schema_piece(json_schema.read_schema(value, path), path, wanted)
        case "json_object":
            return schema_piece({"type": "object"}, path, wanted)
        case "regex":
            _check_chars(value, path)
            return regex_piece(value)
        case "choice":
            return _choice(value, path)
        case "grammar":
            _check_chars(value, path)
            return grammar_of(value, path, special)
        case _:
            _check_chars(value, path)
            tag = json_schema.read_schema(value, path)
            return structural_tag_piece(tag, path, special, lambda schema, where: schema_piece(schema, where, wanted))


def schema_piece(schema: Any, path: str, options: StructuredOutputs) -> Piece:
    """A JSON value of this schema; raises InvalidRequest."""
    prepared = json_schema.prepare(schema, path, is_closed=options.disable_additional_properties)
    return json_piece({**prepared, json_schema.OPTIONS: _llguidance_options(options)})


def _llguidance_options(options: StructuredOutputs) -> dict[str, Any]:
    """How llguidance is to read a schema, and which whitespace answers may have."""
    said: dict[str, Any] = {"lenient": options.is_lenient}
    if options.disable_any_whitespace:
        return said | {"whitespace_flexible": False}
    return said | {"whitespace_pattern": options.whitespace_pattern or WHITESPACE}


def _choice(choices: Any, path: str) -> Piece:
    if not choices or len(choices) > MAX_CHOICES:
        raise InvalidRequest(f"{path} has {len(choices)} choices: give 1 to {MAX_CHOICES}.", param=path)
    for i, choice in enumerate(choices):
        if not isinstance(choice, str):
            raise InvalidRequest(f"{path}[{i}] is {choice!r:.80}: a choice is a string.", param=f"{path}[{i}]")
    _check_chars("".join(choices), path)
    return either([text_piece(choice) for choice in dict.fromkeys(choices)])


def _check_options(wanted: StructuredOutputs, shape: str) -> None:
    if shape not in _JSON_SHAPES:
        for option in _OPTIONS:
            if getattr(wanted, option):
                raise Unsupported(
                    f"{PATH}.{option} is set beside {shape}: it means something for {', '.join(_JSON_SHAPES)} only.",
                    param=f"{PATH}.{option}",
                )
    if wanted.disable_any_whitespace and wanted.whitespace_pattern:
        raise InvalidRequest(
            f"{PATH}.whitespace_pattern is set and disable_any_whitespace is true: give one of them.",
            param=f"{PATH}.whitespace_pattern",
        )


def _check_chars(value: Any, path: str) -> None:
    """Raises InvalidRequest for what is too long, or cannot be written in UTF-8."""
    text = value if isinstance(value, str) else json_schema.written(value, path)
    if len(text) > MAX_GRAMMAR_CHARS:
        raise InvalidRequest(f"{path} has {len(text)} characters: at most {MAX_GRAMMAR_CHARS} are allowed.", param=path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{path} holds the lone surrogate {text[error.start]!r}, which is no character: send well-formed Unicode.",
            param=path,
        ) from None
