"""Reasoning between two markers at the beginning of a reply, <think> ... </think> most often.

Where the template writes the first marker itself, the reply begins inside (``is_open``). Later markers are content: a
reply may speak of them. Line breaks around the reasoning and before the content are layout, and left out. Models forget
to end their reasoning before they call a tool; so a call of one that is offered ends it too, while a marker of calls
that is merely spoken of does not.
"""

import re

import msgspec

from quire.text.dialects.dialect import Parser
from quire.text.dialects.parsing import Output, ReaderParser
from quire.text.dialects.scanner import NEWLINES, SPACES, Emit, Scanner, Steps

_TURN = re.compile(r"<[|｜]|\[/?INST\]|</s>|_of_turn>|<\|?im_")
"""What only stands between messages."""


class Think(msgspec.Struct, frozen=True, kw_only=True):
    """A ``dialect.ReasoningDialect`` of two markers."""

    name: str
    begin: str
    end: str
    told_by: tuple[str, ...] = ()
    """A template that has all of these is of this family; without any, a family is chosen by its name only."""
    other_begins: tuple[str, ...] = ()
    other_ends: tuple[str, ...] = ()
    answer: tuple[str, str] | None = None
    """What stands around the content behind the reasoning."""
    answer_begins: tuple[str, ...] = ()
    is_assumed: bool = False
    """A reply begins inside unless the prompt closes the reasoning, though no marker may say so."""

    @property
    def markers(self) -> tuple[str, ...]:
        return (self.begin, self.end, *(self.answer or ()))

    def recognizes(self, template: str) -> bool:
        return bool(self.told_by) and all(sign in template for sign in self.told_by)

    def is_open(self, prompt: str) -> bool:
        if self.is_assumed:
            return not self.is_over(prompt)
        begin = prompt.rfind(self.begin)
        # A user's message may speak of the marker; then the message's end follows.
        return begin > prompt.rfind(self.end) and _TURN.search(prompt, begin + len(self.begin)) is None

    def is_over(self, prompt: str) -> bool:
        return prompt.rstrip().endswith(self.end)

    def parser(self, is_open: bool, rest: Parser, calls: tuple[str, ...] = ()) -> Parser:
        return ReaderParser(lambda text, out: _read(text, out, self, is_open, rest, calls))


def _read(
    text: Scanner, out: Output, dialect: Think, is_open: bool, rest: Parser, calls: tuple[str, ...]
) -> Steps[None]:
    def push(piece: str) -> None:
        out.extend(rest.push(piece))

    text.hold()
    yield from text.run(SPACES)
    has_begun = (yield from text.follows_any((dialect.begin, *dialect.other_begins))) is not None
    before = text.let_go()
    if is_open or has_begun:
        trimmed = _Trimmed(out.reasoning)
        if not has_begun:
            trimmed.add(before)
        begun_call = yield from _read_reasoning(text, trimmed.add, (dialect.end, *dialect.other_ends), calls)
        if begun_call is not None:
            push(begun_call)
        yield from text.run(NEWLINES)
        if dialect.answer is not None and (yield from text.follows(dialect.answer[0])):
            yield from text.until((dialect.answer[1],), _Trimmed(push).add)
    elif before:
        push(before)
    yield from text.rest(push)
    out.extend(rest.finish())


def _read_reasoning(text: Scanner, emit: Emit, ends: tuple[str, ...], calls: tuple[str, ...]) -> Steps[str | None]:
    """Up to behind one of ``ends``, or into a call, of which is returned what was read."""
    while (found := (yield from text.to((*ends, *calls), emit))) in calls:
        text.hold()
        yield from text.follows(found)
        is_call = yield from _follows_call(text)
        begun = text.let_go()
        if is_call:
            return begun
        emit(begun)
    yield from text.follows_any(ends)
    return None


def _follows_call(text: Scanner) -> Steps[bool]:
    """Whether a call goes on here, behind its marker: at once with a name, or with a bracket or a tag."""
    first = yield from text.peek()
    if first.isalnum():
        return True
    yield from text.spaces()
    if (yield from text.follows("</")):
        return False
    first = yield from text.peek()
    return bool(first) and first in "{[<"


class _Trimmed:
    """Lets text through without the line breaks at its two ends."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._has_begun = False
        self._breaks: list[str] = []

    def add(self, text: str) -> None:
        if not self._has_begun:
            text = text.lstrip("\n")
            self._has_begun = bool(text)
        solid = text.rstrip("\n")
        if solid:
            self._emit("".join((*self._breaks, solid)))
            self._breaks.clear()
        if len(solid) < len(text):
            self._breaks.append(text[len(solid) :])
