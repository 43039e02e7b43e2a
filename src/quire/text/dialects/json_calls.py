"""Calls written as JSON objects, {"name": ..., "arguments": {...}}: what most families agree on.

Keys may come in any order, arguments may be called parameters, and may be JSON inside a string; a call without any has
none, if a marker told that it is a call. Arguments are told while they are written, once the name is known; where the
name comes last, they are held till then. Other keys are read over: an id that a model makes up need not be unique.
Law: a call is told only when its name and the beginning of an object of arguments are there.
"""

import re
from collections.abc import Callable, Container

from quire.text.dialects.json_text import read_brackets, read_decoded, read_value
from quire.text.dialects.parsing import Output, Reader
from quire.text.dialects.scanner import SPACES, Emit, Scanner, Steps

ARGUMENTS = ("arguments", "parameters")
_CALL_KEYS = frozenset(("name", "id", "type", *ARGUMENTS))
_AFTER_CALL = re.compile(r"[ \t\r\n}\]]*")


class _Call:
    """One call on its way: certain when name and arguments are known."""

    def __init__(self, text: Scanner, out: Output, offered: Container[str] | None) -> None:
        self._text = text
        self._out = out
        self._offered = offered
        self._name: str | None = None
        self._early: list[str] = []
        self.has_arguments = False
        self.is_told = False

    def named(self, name: str) -> bool:
        """False for a name that makes this no call."""
        if self._name is not None:
            return True
        if not name or (self._offered is not None and name not in self._offered):
            return False
        self._name = name
        self._tell()
        return True

    def may_have(self, key: str) -> bool:
        """Whether this key can still be a call's: without a marker, one is known by its first keys."""
        return self._offered is None or self._name is not None or key in _CALL_KEYS

    def begin_arguments(self) -> None:
        self.has_arguments = True
        self._tell()

    def arguments(self, text: str) -> None:
        if self.is_told:
            self._out.arguments(text)
        else:
            self._early.append(text)

    def finish(self) -> None:
        """The object is complete."""
        if self._name is not None and not self.has_arguments and self._offered is None:
            self.begin_arguments()
            self.arguments("{}")

    def _tell(self) -> None:
        if self._name is None or not self.has_arguments or self.is_told:
            return
        self._text.let_go()
        self._out.begin(self._name)
        self.is_told = True
        for text in self._early:
            self._out.arguments(text)


def read_call(text: Scanner, out: Output, offered: Container[str] | None = None) -> Steps[bool]:
    """A call, and whether it was one; what is none is content, from where the caller began to hold.

    With ``offered``, as where no marker tells calls from answers in JSON, only a call of one of these names is one, and
    an object that begins with other keys is none. A call that breaks off once it is told stays a call.
    """
    call = _Call(text, out, offered)
    if (yield from _read_members(text, call)):
        call.finish()
    if not call.is_told:
        out.content(text.let_go())
    return call.is_told


def read_calls(text: Scanner, out: Output, offered: Container[str] | None = None) -> Steps[bool]:
    """A list of calls, and whether there was one; what is none is content, as in ``read_call``."""
    if not (yield from text.follows("[")):
        out.content(text.let_go())
        return False
    yield from text.spaces()
    if not (yield from read_call(text, out, offered)):
        return False
    while True:
        text.hold()
        yield from text.spaces()
        if not (yield from text.follows(",")):
            text.let_go()
            return True
        yield from text.spaces()
        if not (yield from read_call(text, out, offered)):
            return True


def read_marked_call(
    text: Scanner, out: Output, ends: tuple[str, ...] = (), offered: Container[str] | None = None
) -> Steps[None]:
    """One call or a list of them, and one of ``ends``; what is no call is content.

    The end may be missing, and models write a closing bracket too many or too few.
    """
    yield from text.spaces()
    is_list = (yield from text.peek()) == "["
    if (yield from (read_calls if is_list else read_call)(text, out, offered)):
        text.hold()
        yield from text.run(_AFTER_CALL)
        behind = text.let_go()
        if not (yield from text.follows_any(ends)):
            out.content(behind[len(behind.rstrip()) :])


def marked_calls(begins: tuple[str, ...], ends: tuple[str, ...]) -> Reader:
    """A reader of content, and of calls that stand behind one of ``begins`` and before one of ``ends``."""

    def read(text: Scanner, out: Output) -> Steps[None]:
        while (begin := (yield from text.until(begins, out.content))) is not None:
            text.hold(begin)
            yield from read_marked_call(text, out, ends)

    return read


def _read_members(text: Scanner, call: _Call) -> Steps[bool]:
    """An object's members up to its end; False where it is not well-formed, or no call."""
    if not (yield from text.follows("{")):
        return False
    yield from text.spaces()
    while True:
        key = yield from _read_text(text)
        yield from text.spaces()
        if key is None or not (yield from text.follows(":")):
            return False
        yield from text.spaces()
        if not (yield from _read_member(text, call, key)):
            return False
        yield from text.spaces()
        if (yield from text.follows("}")):
            return True
        if not (yield from text.follows(",")):
            return False
        yield from text.spaces()


def _read_member(text: Scanner, call: _Call, key: str) -> Steps[bool]:
    if not call.may_have(key):
        return False
    if key == "name":
        name = yield from _read_text(text)
        return name is not None and call.named(name)
    if key in ARGUMENTS and not call.has_arguments:
        return (yield from _read_arguments(text, call))
    return (yield from read_value(text))


def _read_arguments(text: Scanner, call: _Call) -> Steps[bool]:
    """An object, one inside a string, or nothing at all: null, or an empty string."""
    first = yield from text.peek()
    if first == "{":
        return (yield from read_object(text, call.begin_arguments, call.arguments))
    if first == '"':
        return (yield from _read_quoted_arguments(text, call))
    return (yield from text.follows("null"))


def _read_quoted_arguments(text: Scanner, call: _Call) -> Steps[bool]:
    is_object = True

    def take(piece: str) -> None:
        nonlocal is_object
        if not call.has_arguments:
            piece = piece.lstrip()
            if not piece or not is_object:
                return
            is_object = piece.startswith("{")
            if not is_object:
                return
            call.begin_arguments()
        call.arguments(piece)

    is_whole = yield from read_decoded(text, take)
    return is_whole and is_object


def _read_text(text: Scanner) -> Steps[str | None]:
    """What a string says, or None where there is no whole one."""
    pieces: list[str] = []
    is_whole = yield from read_decoded(text, pieces.append)
    return "".join(pieces) if is_whole else None


def read_object(text: Scanner, begin: Callable[[], None], emit: Emit) -> Steps[bool]:
    """An object as it is written; ``begin`` is told once it is sure to be one: a key or its end follows the brace."""
    if not (yield from text.follows("{")):
        return False
    layout: list[str] = []
    yield from text.run(SPACES, layout.append)
    if (yield from text.peek()) not in ('"', "}"):
        return False
    begin()
    emit("".join(("{", *layout)))
    return (yield from read_brackets(text, emit, depth=1))
