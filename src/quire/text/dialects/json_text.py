"""Follows JSON as it is being written: where a string or an object ends, and what it says.

Forgiving inside, since a model's arguments are passed on as it wrote them: brackets are counted, numbers and words are
not checked; what no JSON has outside strings (a quote of another kind, the < of a marker) ends the reading.
Control characters in strings, which models write and JSON forbids, come out escaped.
"""

import re

from quire.text.dialects.scanner import Emit, Scanner, Steps, drop

_IN_STRING = re.compile(r'[^"\\]*')
_BETWEEN = re.compile(r"[\w \t\r\n.,:+\-]*")
_SCALAR = re.compile(r"[\w.+\-]*")
_CONTROL = re.compile(r"[\x00-\x1f]")
_HEX = frozenset("0123456789abcdefABCDEF")
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}" if match[0] != "\n" else "\\n", text)


def read_string(text: Scanner, emit: Emit) -> Steps[bool]:
    """A string with its quotes, as it is written. False where none begins, or the text ends in it."""
    if not (yield from text.follows('"')):
        return False
    emit('"')
    while True:
        yield from text.run(_IN_STRING, lambda piece: emit(_escaped(piece)))
        char = yield from text.next()
        if not char:
            return False
        emit(char)
        if char == '"':
            return True
        escaped = yield from text.next()
        if escaped:
            emit(_escaped(escaped))


def read_decoded(text: Scanner, emit: Emit) -> Steps[bool]:
    """What a string says. False where none begins, or the text ends in it."""
    if not (yield from text.follows('"')):
        return False
    while True:
        yield from text.run(_IN_STRING, emit)
        char = yield from text.next()
        if char != "\\":
            return char == '"'
        escaped = yield from _read_escape(text)
        if escaped:
            emit(escaped)


def _read_escape(text: Scanner) -> Steps[str]:
    """What stands behind a backslash."""
    char = yield from text.next()
    return (yield from read_unicode(text)) if char == "u" else _ESCAPES.get(char, char)


def read_unicode(text: Scanner) -> Steps[str]:
    r"""What stands behind a \u, with the other half if it is half a character; U+FFFD where something is missing."""
    code = yield from read_hex(text, 4)
    if 0xD800 <= code < 0xDC00 and (yield from text.follows("\\u")):
        low = yield from read_hex(text, 4)
        if 0xDC00 <= low < 0xE000:
            return chr(0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00))
        return "\ufffd" + as_char(low)
    return as_char(code)


def as_char(code: int) -> str:
    """The character of this number; U+FFFD where it is none, or half of one."""
    return "\ufffd" if 0xD800 <= code < 0xE000 or code > 0x10FFFF else chr(code)


def read_hex(text: Scanner, length: int) -> Steps[int]:
    """A number of so many hexadecimal digits; 0xFFFD where there are fewer."""
    digits = ""
    while len(digits) < length and (yield from text.peek()) in _HEX:
        digits += yield from text.next()
    return int(digits, 16) if len(digits) == length else 0xFFFD


def read_brackets(text: Scanner, emit: Emit, depth: int = 0) -> Steps[bool]:
    """An object or list, or the rest of one of which ``depth`` brackets are open. False where it breaks off."""
    while True:
        if depth:
            yield from text.run(_BETWEEN, emit)
        char = yield from text.peek()
        if char == '"' and depth:
            if not (yield from read_string(text, emit)):
                return False
        elif char and char in "{[":
            depth += 1
            emit((yield from text.next()))
        elif char and char in "}]" and depth:
            depth -= 1
            emit((yield from text.next()))
            if not depth:
                return True
        else:
            return False


def read_value(text: Scanner, emit: Emit = drop) -> Steps[bool]:
    """Any value, as it is written."""
    char = yield from text.peek()
    if char == '"':
        return (yield from read_string(text, emit))
    if char and char in "{[":
        return (yield from read_brackets(text, emit))
    pieces: list[str] = []
    yield from text.run(_SCALAR, pieces.append)
    for piece in pieces:
        emit(piece)
    return bool(pieces)
