"""From readers of text to parsers of replies: where events are gathered, and what drives a reader.

How a family's file is written: a reader ``read(text, out)`` that looks for its markers and tells ``out`` what it finds,
and a frozen struct with ``name``, ``markers``, ``recognizes``, ``parser`` and ``grammar`` (``dialect.ToolDialect``);
``hermes.py`` shows all of it. Rules that keep the laws of ``dialect``:

* Look ahead by ``yield from`` operations of the scanner only; never ask how much text is there.
* ``text.hold(marker)`` where a call may begin. Once it is certain (name known, arguments begun) ``out.begin(...)``, and
  ``text.let_go()``; where it fails, ``out.content(text.let_go())`` and go on from there: nothing is read twice.
* After ``out.begin`` there is no way back: tell the arguments that the model wrote, then go on with content.
"""

from collections.abc import Callable, Iterable

from quire.text.dialects.events import CallArguments, CallBegun, Content, Event, Reasoning
from quire.text.dialects.scanner import Scanner, Steps

_LAYOUT = " \t\r\n"


class Output:
    """Gathers the events of one reply; neighbours of a kind are one event within a push.

    Whitespace beside calls is layout, and kept only where there is content on both sides; so whitespace is held back
    until one knows what follows.
    """

    def __init__(self, new_id: Callable[[], str] | None = None) -> None:
        self.num_calls = 0
        self._new_id = new_id
        self._events: list[Event] = []
        self._kind: Callable[[str], Event] | None = None
        self._pieces: list[str] = []
        self._space: list[str] = []
        self._has_content = False
        self._follows_call = False

    def content(self, text: str) -> None:
        """More of the answer."""
        if self._follows_call and not self._has_content:
            text = text.lstrip(_LAYOUT)
        solid = text.rstrip(_LAYOUT)
        if solid:
            self._add(Content, "".join((*self._space, solid)))
            self._space.clear()
            self._has_content = True
            self._follows_call = False
        if len(solid) < len(text):
            self._space.append(text[len(solid) :])

    def reasoning(self, text: str) -> None:
        """More of what the model thinks."""
        self._add(Reasoning, text)

    def begin(self, name: str, call_id: str | None = None) -> None:
        """A call, now certain; ``arguments`` are this call's until the next begins."""
        self._flush()
        if not self._has_content:
            self._space.clear()
        self._follows_call = True
        if call_id is None and self._new_id is not None:
            call_id = self._new_id()
        self._events.append(CallBegun(self.num_calls, name, call_id))
        self.num_calls += 1

    def arguments(self, text: str) -> None:
        """More of the last call's arguments, as JSON text."""
        self._add(self._call_arguments, text)

    def extend(self, events: Iterable[Event]) -> None:
        """Events of another parser, as they are."""
        self._flush()
        self._events.extend(events)

    def take(self) -> list[Event]:
        """The events since the last time."""
        self._flush()
        events, self._events = self._events, []
        return events

    def finish(self) -> list[Event]:
        """The last events; whitespace at the end of content is content."""
        if self._space and not self._follows_call:
            self._add(Content, "".join(self._space))
        self._space.clear()
        return self.take()

    def _call_arguments(self, text: str) -> Event:
        return CallArguments(self.num_calls - 1, text)

    def _add(self, kind: Callable[[str], Event], text: str) -> None:
        if kind != self._kind:
            self._flush()
            self._kind = kind
        self._pieces.append(text)

    def _flush(self) -> None:
        if self._kind is not None:
            self._events.append(self._kind("".join(self._pieces)))
            self._kind = None
            self._pieces.clear()


def read_end(text: Scanner, out: Output, ends: tuple[str, ...]) -> Steps[None]:
    """One of ``ends``, with space before it; where there is none, the space stands beside what follows."""
    text.hold()
    yield from text.spaces()
    if (yield from text.follows_any(ends)):
        text.let_go()
    else:
        out.content(text.let_go())


Reader = Callable[[Scanner, Output], Steps[None]]


class ReaderParser:
    """The parser that a reader is (``dialect.Parser``). The reader reads to the end of its text.

    ``new_id`` makes ids for calls that come without, where a family's templates ask for ids of a kind.
    """

    def __init__(self, read: Reader, new_id: Callable[[], str] | None = None) -> None:
        self._text = Scanner()
        self._out = Output(new_id)
        self._steps = read(self._text, self._out)

    def push(self, text: str) -> list[Event]:
        self._text.feed(text)
        next(self._steps)
        return self._out.take()

    def finish(self) -> list[Event]:
        self._text.end()
        for _ in self._steps:
            raise AssertionError("a reader waits for text after the end")
        return self._out.finish()
