"""Structural tags: free text, and parts of it with a shape of their own.

Two ways to write them are read: ``{"structures": [{begin, schema, end}], "triggers": [...]}``, and a tree of formats
under ``{"format": {...}}``. The names are those of xgrammar and vLLM. Free text that stands before something ends where
that first begins; where nothing tells its end, it can only be the last.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from quire.core.errors import InvalidRequest, Unsupported
from quire.text.grammar.ebnf import grammar_of
from quire.text.grammar.fields import Fields
from quire.text.grammar.json_schema import check_nesting
from quire.text.grammar.lark import (
    Piece,
    any_text,
    either,
    marker_parts,
    regex_piece,
    repeated,
    sequence,
    text_piece,
    token_piece,
    until,
    without,
)

SchemaPiece = Callable[[Any, str], Piece]
"""A schema and its path -> a JSON value of it."""

_Ends = Sequence[list[Piece]]
"""What may follow free text: one of these."""
_NO_END: _Ends = [[]]


def structural_tag_piece(tag: Any, path: str, special: Mapping[str, int], of_schema: SchemaPiece) -> Piece:
    """Raises InvalidRequest or Unsupported, with the path of what is at fault."""
    fields = Fields(tag, path)
    check_nesting(tag, path)
    fields.check_type("structural_tag")
    reader = _Reader(special, of_schema)
    if "format" in fields:
        whole = fields.of("format", dict)
        fields.done()
        return sequence(reader.format(whole, f"{path}.format", _NO_END))
    if "structures" in fields or "triggers" in fields:
        return sequence(reader.structures(fields))
    raise InvalidRequest(f"{path} has neither format nor structures and triggers: give one.", param=path)


class _Tag(NamedTuple):
    """A tag that may stand in free text: its begin, its content and end, its path."""

    begin: str
    body: list[Piece]
    path: str


class _Reader:
    """Makes pieces of formats. A format is a list of pieces, so that free text sees what it ends at."""

    def __init__(self, special: Mapping[str, int], of_schema: SchemaPiece) -> None:
        self._special = special
        self._of_schema = of_schema

    def structures(self, fields: Fields) -> list[Piece]:
        """``structures`` and ``triggers``."""
        triggers = fields.texts("triggers")
        tags = []
        for one, where in fields.listed("structures"):
            structure = Fields(one, where)
            body = self._of_schema(structure.of("schema", (dict, bool), {}), f"{where}.schema")
            tags.append(_Tag(structure.of("begin", str), [body, *self._marker(structure.of("end", str))], where))
            structure.done()
        fields.done()
        return self._triggered(triggers, tags, fields.path, any_text(), _NO_END)

    def format(self, value: Any, path: str, ends: _Ends) -> list[Piece]:
        """A format; where it is free text, up to one of ``ends`` and with it."""
        fields = Fields(value, path)
        kind = fields.of("type", str)
        if kind not in _FORMATS:
            raise Unsupported(
                f"{path}.type is {kind!r:.80}, which is not supported: use {', '.join(_FORMATS)}.", param=f"{path}.type"
            )
        pieces = _FORMATS[kind](self, fields, ends)
        fields.done()
        return pieces

    def _piece(self, value: Any, path: str) -> Piece:
        """A format that something may follow which it does not see."""
        if _is_free(value):
            raise Unsupported(
                f"{path} ends in free text, and nothing tells where that ends: put it last, or into a tag.", param=path
            )
        return sequence(self.format(value, path, _NO_END))

    # --- free text --------------------------------------------------------------------------------------------------

    def _any_text(self, fields: Fields, ends: _Ends) -> list[Piece]:
        return [_until(_text_without(fields.texts("excludes", [])), ends)]

    def _triggered_tags(self, fields: Fields, ends: _Ends) -> list[Piece]:
        tags = [self._tag_in_text(one, where) for one, where in fields.listed("tags")]
        text = _text_without(fields.texts("excludes", []))
        is_first, is_once = fields.of("at_least_one", bool, False), fields.of("stop_after_first", bool, False)
        return self._triggered(fields.texts("triggers"), tags, fields.path, text, ends, is_first, is_once)

    def _triggered(
        self,
        triggers: Sequence[str],
        tags: Sequence[_Tag],
        path: str,
        text: Piece,
        ends: _Ends,
        is_first: bool = False,
        is_once: bool = False,
    ) -> list[Piece]:
        """Free text, in which after a trigger the rest of one of its tags follows."""
        rests: dict[str, list[Piece]] = {trigger: [] for trigger in triggers}
        for tag in tags:
            trigger = max((one for one in triggers if tag.begin.startswith(one)), key=len, default=None)
            if trigger is None:
                where = f"{tag.path}.begin"
                raise InvalidRequest(f"{where} is {tag.begin!r:.80}: it begins with none of the triggers.", param=where)
            rests[trigger].append(sequence([*self._marker(tag.begin[len(trigger) :]), *tag.body]))
        for i, trigger in enumerate(triggers):
            if not rests[trigger]:
                where = f"{path}.triggers[{i}]"
                raise InvalidRequest(f"{where} is {trigger!r:.80}: no tag begins with it.", param=where)
        in_text = either([sequence([until(self._marker(one), text), either(rest)]) for one, rest in rests.items()])
        tail = _until(text, ends)
        if not is_first:
            # A reply that ends after its first tag need not have one.
            return [either([sequence([in_text, _any_of(ends)]), tail])] if is_once else [repeated(in_text), tail]
        first = either([sequence([*self._marker(tag.begin), *tag.body]) for tag in tags])
        return [first] if is_once else [first, repeated(in_text), tail]

    def _tag_in_text(self, value: Any, path: str) -> _Tag:
        fields = _tag_fields(value, path)
        tag = _Tag(fields.of("begin", str), self._content_and_end(fields, _NO_END), path)
        fields.done()
        return tag

    # --- tags -------------------------------------------------------------------------------------------------------

    def _tag(self, fields: Fields, ends: _Ends) -> list[Piece]:
        begin = self._delimiter(fields.of("begin", (str, dict)), f"{fields.path}.begin")
        return [*begin, *self._content_and_end(fields, ends)]

    def _content_and_end(self, fields: Fields, outer: _Ends) -> list[Piece]:
        given = fields.of("end", (str, list, dict))
        where = f"{fields.path}.end"
        each = fields.texts("end") if isinstance(given, list) else [given]
        if not each:
            raise InvalidRequest(f"{where} is []: give at least one.", param=where)
        ends = [self._delimiter(one, where) for one in each] if given else outer
        content, path = fields.of("content", dict), f"{fields.path}.content"
        if _is_free(content):
            return self.format(content, path, ends)
        return [self._piece(content, path), _any_of(ends)] if given else [self._piece(content, path)]

    def _tags_with_separator(self, fields: Fields, ends: _Ends) -> list[Piece]:
        tags = []
        for one, where in fields.listed("tags"):
            tag = _tag_fields(one, where)
            tags.append(sequence(self._tag(tag, _NO_END)))
            tag.done()
        separator = self._marker(fields.of("separator", str))
        one_tag = either(tags)
        is_once = fields.of("stop_after_first", bool, False)
        some = one_tag if is_once else sequence([one_tag, repeated(sequence([*separator, one_tag]))])
        return [some if fields.of("at_least_one", bool, False) else repeated(some, 0, 1)]

    def _delimiter(self, value: Any, path: str) -> list[Piece]:
        if isinstance(value, str):
            return self._marker(value)
        fields = Fields(value, path)
        if fields.of("type", str) != "token":
            raise Unsupported(f"{path} is a format: a tag begins and ends with a string or a token.", param=path)
        token = self._token(fields, _NO_END)
        fields.done()
        return token

    def _marker(self, text: str) -> list[Piece]:
        return marker_parts(text, self._special)

    def _token(self, fields: Fields, ends: _Ends) -> list[Piece]:
        token = fields.of("token", (int, str))
        token_id = self._special.get(token) if isinstance(token, str) else token
        if token_id is None or token_id not in self._special.values():
            where = f"{fields.path}.token"
            raise InvalidRequest(f"{where} is {token!r:.80}, which is no special token of this model.", param=where)
        return [token_piece(token_id)]

    # --- what is put together ---------------------------------------------------------------------------------------

    def _sequence(self, fields: Fields, ends: _Ends) -> list[Piece]:
        rest: list[Piece] = []
        is_last = True
        for one, where in reversed(fields.listed("elements")):
            if not _is_free(one):
                rest[:0] = self.format(one, where, _NO_END)
            elif is_last:
                rest = self.format(one, where, ends)
            elif rest[0].is_regular or rest[0].is_token:
                rest = self.format(one, where, [rest])
            else:
                raise Unsupported(
                    f"{where} is free text, and nothing tells where it ends: let a const_string, a regex, a token or a "
                    "tag follow.",
                    param=where,
                )
            is_last = False
        return rest

    def _or(self, fields: Fields, ends: _Ends) -> list[Piece]:
        listed = fields.listed("elements")
        if ends == _NO_END:
            return [either([sequence(self.format(one, where, ends)) for one, where in listed])]
        return [either([self._piece(one, where) for one, where in listed])]

    def _repeat(self, fields: Fields, ends: _Ends) -> list[Piece]:
        kind = fields.of("type", str)
        bounds = {"optional": (0, 1), "star": (0, -1), "plus": (1, -1)}
        least, most = bounds[kind] if kind in bounds else (fields.of("min", int), fields.of("max", int))
        if least < 0 or most < -1 or 0 <= most < least:
            raise InvalidRequest(
                f"{fields.path} repeats {least} to {most} times: min must be at least 0, max -1 or at least min.",
                param=f"{fields.path}.max",
            )
        content = self._piece(fields.of("content", dict), f"{fields.path}.content")
        return [repeated(content, least, None if most < 0 else most)]

    # --- what stands alone ------------------------------------------------------------------------------------------

    def _const_string(self, fields: Fields, ends: _Ends) -> list[Piece]:
        return self._marker(fields.of("value", str)) or [text_piece("")]

    def _regex(self, fields: Fields, ends: _Ends) -> list[Piece]:
        return [regex_piece(fields.of("pattern", str))]

    def _json_schema(self, fields: Fields, ends: _Ends) -> list[Piece]:
        style = fields.of("style", str, "json")
        if style != "json" or fields.of("any_order", bool, False):
            where = f"{fields.path}.{'style' if style != 'json' else 'any_order'}"
            raise Unsupported(f"{where} is not supported: values are JSON, in the order of the schema.", param=where)
        return [self._of_schema(fields.of("json_schema", (dict, bool)), f"{fields.path}.json_schema")]

    def _grammar(self, fields: Fields, ends: _Ends) -> list[Piece]:
        return [grammar_of(fields.of("grammar", str), f"{fields.path}.grammar", self._special)]


_FORMATS: Mapping[str, Callable[[_Reader, Fields, _Ends], list[Piece]]] = {
    "const_string": _Reader._const_string,
    "json_schema": _Reader._json_schema,
    "regex": _Reader._regex,
    "grammar": _Reader._grammar,
    "any_text": _Reader._any_text,
    "sequence": _Reader._sequence,
    "or": _Reader._or,
    "optional": _Reader._repeat,
    "star": _Reader._repeat,
    "plus": _Reader._repeat,
    "repeat": _Reader._repeat,
    "tag": _Reader._tag,
    "triggered_tags": _Reader._triggered_tags,
    "tags_with_separator": _Reader._tags_with_separator,
    "token": _Reader._token,
}


def _tag_fields(value: Any, path: str) -> Fields:
    fields = Fields(value, path)
    fields.check_type("tag")
    return fields


def _is_free(value: Any) -> bool:
    """Whether a format ends in text of which only what follows it tells where it ends."""
    if not isinstance(value, dict):
        return False
    match value.get("type"):
        case "any_text":
            return True
        case "triggered_tags":
            return not (value.get("at_least_one") and value.get("stop_after_first"))
        case "tag":
            return not value.get("end") and _is_free(value.get("content"))
        case "sequence":
            elements = value.get("elements")
            return isinstance(elements, list) and bool(elements) and _is_free(elements[-1])
        case "or":
            elements = value.get("elements")
            return isinstance(elements, list) and any(map(_is_free, elements))
        case "optional" | "star" | "plus" | "repeat":
            return _is_free(value.get("content"))
    return False


def _until(text: Piece, ends: _Ends) -> Piece:
    return text if ends == _NO_END else either([until(end, text) for end in ends])


def _any_of(ends: _Ends) -> Piece:
    return either([sequence(end) for end in ends])


def _text_without(excluded: Sequence[str]) -> Piece:
    if not excluded:
        return any_text()
    found = sequence([any_text(), either([text_piece(text) for text in excluded]), any_text()])
    return without(any_text(), found)
