"""Reads Python's literals as they are being written, and tells them as JSON.

Strings, numbers, True, False, None, lists, tuples and sets (lists in JSON) and dicts with strings as keys; JSON's own
words too.
Nothing is evaluated. What is no such literal, or is nested deeper than MAX_DEPTH, ends the reading.
"""

import json
import math
import re

from quire.text.dialects.json_text import as_char, read_hex, read_unicode
from quire.text.dialects.scanner import Emit, Scanner, Steps

MAX_DEPTH = 64
_MAX_NUMBER_CHARS = 64

_WORD = re.compile(r"[\w.+\-]*")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORDS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0", "\n": ""}
_HEX_LENGTHS = {"x": 2, "U": 8}
_BODIES = {quote: re.compile(rf"[^{quote}\\]*") for quote in ("'", '"')}


def read_literal(text: Scanner, emit: Emit, depth: int = 0) -> Steps[bool]:
    """A literal, told as JSON. False where there is none, or it breaks off."""
    char = yield from text.peek()
    if char in _BODIES:
        return (yield from read_python_string(text, emit))
    if depth >= MAX_DEPTH:
        return False
    if (yield from text.follows("[")):
        emit("[")
        return (yield from _read_items(text, emit, "]", depth + 1))
    if (yield from text.follows("(")):
        emit("[")
        return (yield from _read_items(text, emit, ")", depth + 1))
    if (yield from text.follows("{")):
        return (yield from _read_braces(text, emit, depth + 1))
    return (yield from _read_word(text, emit))


def read_python_string(text: Scanner, emit: Emit) -> Steps[bool]:
    """A string in quotes of either kind, or three of them."""
    quote = yield from text.peek()
    if quote not in _BODIES:
        return False
    end = (yield from text.follows_any((quote * 3, quote))) or quote

    def tell(piece: str) -> None:
        if piece:
            emit(json.dumps(piece, ensure_ascii=False)[1:-1])

    emit('"')
    while True:
        yield from text.run(_BODIES[quote], tell)
        if (yield from text.follows(end)):
            emit('"')
            return True
        char = yield from text.next()
        if not char:
            return False
        tell((yield from _read_escape(text)) if char == "\\" else char)


def _read_escape(text: Scanner) -> Steps[str]:
    char = yield from text.next()
    if char == "u":
        return (yield from read_unicode(text))
    if char in _HEX_LENGTHS:
        return as_char((yield from read_hex(text, _HEX_LENGTHS[char])))
    if char in _ESCAPES:
        return _ESCAPES[char]
    # Python keeps the backslash before what is no escape.
    return char if char in ("\\", "'", '"') else f"\\{char}"


def _read_items(text: Scanner, emit: Emit, end: str, depth: int, separator: str = "") -> Steps[bool]:
    """The rest of a list; ``separator`` is what parts the next item from what is told of it."""
    while True:
        yield from text.spaces()
        if (yield from text.follows(end)):
            emit("]")
            return True
        if separator:
            emit(separator)
        if not (yield from read_literal(text, emit, depth)):
            return False
        yield from text.spaces()
        separator = ", "
        if not (yield from text.follows(",")) and (yield from text.peek()) != end:
            return False


def _read_braces(text: Scanner, emit: Emit, depth: int) -> Steps[bool]:
    """The rest of a dict or of a set; which of them is known, and told, once the first item is read."""
    yield from text.spaces()
    if (yield from text.follows("}")):
        emit("{}")
        return True
    first: list[str] = []
    is_whole = yield from read_literal(text, first.append, depth)
    yield from text.spaces()
    if is_whole and ((yield from text.follows(",")) or (yield from text.peek()) == "}"):
        emit("".join(("[", *first)))
        return (yield from _read_items(text, emit, "}", depth, ", "))
    emit("".join(("{", *first)))
    is_key = is_whole and first[0].startswith('"')
    while is_key and (yield from text.follows(":")):
        emit(": ")
        yield from text.spaces()
        if not (yield from read_literal(text, emit, depth)):
            return False
        yield from text.spaces()
        has_more = yield from text.follows(",")
        yield from text.spaces()
        if (yield from text.follows("}")):
            emit("}")
            return True
        if not has_more:
            return False
        emit(", ")
        is_key = yield from read_python_string(text, emit)
        yield from text.spaces()
    return False


def _read_word(text: Scanner, emit: Emit) -> Steps[bool]:
    """A number or a name of a constant."""
    pieces: list[str] = []
    yield from text.run(_WORD, pieces.append)
    told = _as_json("".join(pieces))
    if told is None:
        return False
    emit(told)
    return True


def _as_json(word: str) -> str | None:
    """A number or constant of Python in JSON's spelling, or None."""
    if word in _WORDS:
        return _WORDS[word]
    if _JSON_NUMBER.fullmatch(word):
        return word
    if len(word) > _MAX_NUMBER_CHARS:
        return None
    # 07 is 7, though no number in Python: so models write days and months.
    for base in (0, 10):
        try:
            return str(int(word, base))
        except ValueError:
            pass
    try:
        number = float(word)
    except ValueError:
        return None
    return repr(number) if math.isfinite(number) else None
