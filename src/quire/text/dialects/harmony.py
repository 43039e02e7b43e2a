"""Harmony, gpt-oss' format: a reply is messages on channels, which one parser reads for reasoning, answers and calls.

    <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>
    <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>

The prompt ends with <|start|>assistant, so a reply begins within a header. What a message is for (``to=``) may stand
before its channel or behind it. What is for a function is a call, whatever the channel: models call from their analysis
too. All else is shown as its channel says: analysis is reasoning, the rest is content. The tokens that end a reply may
be hidden, so a message that the text ends in is whole.

Source: docs/format.md of openai/harmony.
"""

import re
from collections.abc import Mapping, Sequence

import msgspec

from quire.text.dialects.dialect import Parser, Tool
from quire.text.dialects.json_calls import read_object
from quire.text.dialects.lark import arguments_rules, marker
from quire.text.dialects.parsing import Output, ReaderParser
from quire.text.dialects.scanner import Emit, Scanner, Steps
from quire.text.grammar.lark import literal

START = "<|start|>"
CHANNEL = "<|channel|>"
CONSTRAIN = "<|constrain|>"
MESSAGE = "<|message|>"
END = "<|end|>"
RETURN = "<|return|>"
CALL = "<|call|>"
_MARKERS = (START, CHANNEL, CONSTRAIN, MESSAGE, END, RETURN, CALL)
_ENDS = (END, RETURN, CALL)
_HEADERS = (START, CHANNEL)
_RECIPIENT = "to="
_FUNCTIONS = "functions."

_ANALYSIS = f"{CHANNEL}analysis"
_FINAL = f"{CHANNEL}final{MESSAGE}"
_ON_CHANNEL = re.compile(r"<\|channel\|>\s*(\w*)")
_FOR = re.compile(r"\bto=([^\s<]+)")
_EMPTY_HEADER = re.compile(r"(?:<\|start\|>)?\s*\w*\s*(?:<\|channel\|>\s*\w*\s*)?")
_MAX_HEADER_CHARS = 512


class HarmonyParser(ReaderParser):
    """A ``dialect.Parser`` of whole replies; ``is_open`` says that they begin inside reasoning."""

    def __init__(self, tools: Sequence[Tool], is_open: bool = False) -> None:
        self.tools = tools
        super().__init__(lambda text, out: _Reading(text, out, tools).read(is_open))


class HarmonyCalls(msgspec.Struct, frozen=True):
    """A ``dialect.ToolDialect``; its parser tells reasoning too."""

    name: str = "harmony"
    markers: tuple[str, ...] = _MARKERS

    def recognizes(self, template: str) -> bool:
        return _is_harmony(template)

    def parser(self, tools: Sequence[Tool]) -> Parser:
        return HarmonyParser(tools)

    def grammar(self, tools: Sequence[Tool], *, at_most_one: bool, special: Mapping[str, int]) -> str:
        # A call ends the reply, so there is never more than one. Behind reasoning, a message begins anew.
        start, channel, constrain, message = (marker(tag, special) for tag in (START, CHANNEL, CONSTRAIN, MESSAGE))
        bodies = [
            f'{literal(f"{tool.name} ")} {constrain} "json" {message} arguments_{i}' for i, tool in enumerate(tools)
        ]
        opening = f'({start} "assistant")? {channel} "commentary {_RECIPIENT}{_FUNCTIONS}"'
        return f"calls: {opening} ({' | '.join(bodies)})\n" + arguments_rules(tools)


class HarmonyReasoning(msgspec.Struct, frozen=True):
    """A ``dialect.ReasoningDialect``: the analysis channel."""

    name: str = "harmony"
    begin: str = f"{_ANALYSIS}{MESSAGE}"
    end: str = END
    answer_begins: tuple[str, ...] = (f"{START}assistant{_FINAL}", _FINAL)
    markers: tuple[str, ...] = _MARKERS

    def recognizes(self, template: str) -> bool:
        return _is_harmony(template)

    def is_open(self, prompt: str) -> bool:
        last = prompt[max(prompt.rfind(tag) for tag in (*_HEADERS, *_ENDS)) :] if CHANNEL in prompt else ""
        header, message, _ = last.partition(MESSAGE)
        return bool(message) and header.startswith(_ANALYSIS) and _FOR.search(header) is None

    def is_over(self, prompt: str) -> bool:
        return False  # a reply may have one more message of it

    def parser(self, is_open: bool, rest: Parser, calls: tuple[str, ...] = ()) -> Parser:
        # The one parser reads all: another family's calls have no place in these messages.
        return HarmonyParser(rest.tools if isinstance(rest, HarmonyParser) else (), is_open)


def _is_harmony(template: str) -> bool:
    return CHANNEL in template and MESSAGE in template


class _Reading:
    """One reply being read."""

    def __init__(self, text: Scanner, out: Output, tools: Sequence[Tool]) -> None:
        self._text = text
        self._out = out
        self._offered = frozenset(tool.name for tool in tools)
        self._told: set[Emit] = set()

    def read(self, is_open: bool) -> Steps[None]:
        found = yield from self._read_beginning(is_open)
        while found is not None:
            found = yield from (self._read_message(found) if found in _HEADERS else self._read_between())

    def _read_beginning(self, is_open: bool) -> Steps[str | None]:
        """Up to the first marker of a message, or behind a first message that has none: the prompt began it."""
        if is_open:
            return (yield from self._read_text(self._out.reasoning))
        self._text.hold()
        yield from self._text.spaces()
        if (yield from self._text.follows(_RECIPIENT)):
            return (yield from self._read_message(self._text.let_go()))
        self._out.content(self._text.let_go())
        return (yield from self._read_text(self._out.content))

    def _read_message(self, begun: str) -> Steps[str | None]:
        """A message, of whose header ``begun`` is read, and the marker behind it; None at the end of the text."""
        text = self._text
        text.hold(begun)
        header: list[str] = [begun]
        found = yield from self._read_header(header)
        raw = text.let_go()
        if found != MESSAGE:
            # A header that breaks off at the end of the text says nothing, and neither does one without a message.
            if found is not None and _EMPTY_HEADER.fullmatch("".join(header)) is None:
                self._out.content(raw)
            return found if found != "" else (yield from self._read_text(self._out.content))
        channel, recipient = _ON_CHANNEL.search(raw), _FOR.search(raw)
        show = self._out.reasoning if channel is not None and channel[1] == "analysis" else self._out.content
        name = self._function(recipient[1]) if recipient is not None else None
        return (yield from (self._read_text(show) if name is None else self._read_call(name, show)))

    def _read_header(self, header: list[str]) -> Steps[str | None]:
        """Up to the marker that ends the header; empty where it is too long, None at the end of the text."""
        num_chars = 0
        while num_chars < _MAX_HEADER_CHARS:
            found = yield from self._text.follows_any((MESSAGE, *_ENDS))
            if found is not None:
                return found
            char = yield from self._text.next()
            if not char:
                return None
            header.append(char)
            num_chars += 1
        return ""

    def _read_text(self, show: Emit) -> Steps[str | None]:
        """What is shown of a message, and the marker that ends it."""
        return (yield from self._text.until((*_HEADERS, *_ENDS), self._message(show)))

    def _read_call(self, name: str, show: Emit) -> Steps[str | None]:
        """The arguments, and the marker that ends the message. What is no object is shown."""
        text, out = self._text, self._out

        def begin() -> None:
            text.let_go()
            out.begin(name)

        text.hold()
        yield from text.spaces()
        found = yield from text.follows_any(_ENDS)
        if found is not None:
            begin()
            out.arguments("{}")
            return found
        yield from read_object(text, begin, out.arguments)
        show = self._message(show)
        show_rest = text.let_go()
        if show_rest:
            show(show_rest)
        else:
            yield from text.spaces()
        return (yield from text.until((*_HEADERS, *_ENDS), show))

    def _read_between(self) -> Steps[str | None]:
        yield from self._text.spaces()
        return (yield from self._text.until((*_HEADERS, *_ENDS), self._out.content))

    def _function(self, recipient: str) -> str | None:
        """The function that is called, if any: the model may be used to tools that are not offered, or to none."""
        if not self._offered:
            return None
        name = recipient.removeprefix(_FUNCTIONS)
        return name if name in self._offered or (name and name != recipient) else None

    def _message(self, show: Emit) -> Emit:
        """Shows one message, on a line of its own behind others of its kind."""
        is_first = True

        def take(piece: str) -> None:
            nonlocal is_first
            if is_first and show in self._told:
                show("\n")
            is_first = False
            self._told.add(show)
            show(piece)

        return take
