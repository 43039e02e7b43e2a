"""Qwen3-Coder: a function's tag with a tag for each parameter, as Qwen3.5 and Nemotron 3 write it too.

    <tool_call>
    <function=NAME>
    <parameter=KEY>
    VALUE
    </parameter>
    </function>
    </tool_call>

One line break on each side of a value is the tags'; Seed-OSS, which has other markers around its calls, writes none.
Models forget tags: <tool_call> may be missing where the function is one that is offered, and a parameter or a function
that begins or ends on a line of its own ends the value before it. Text between the parameters is no argument, and so
content, told behind the call.
"""

from collections.abc import Mapping, Sequence

import msgspec

from quire.text.dialects.dialect import Parser, Tool
from quire.text.dialects.lark import marker
from quire.text.dialects.names import read_function_name, read_name
from quire.text.dialects.parsing import Output, ReaderParser, read_end
from quire.text.dialects.scanner import Emit, Scanner, Steps
from quire.text.dialects.typed_arguments import TypedArguments
from quire.text.dialects.typed_grammar import Tags, typed_arguments_rules
from quire.text.grammar.lark import literal

FUNCTION = "<function="
FUNCTION_END = "</function>"
PARAMETER = "<parameter="
PARAMETER_END = "</parameter>"

_AFTER_VALUE = (PARAMETER_END, f"\n{PARAMETER}", f"\n{FUNCTION_END}")
_ENDS_VALUE = r"(?s:.*)<\/parameter>(?s:.*)|((?s:.*)\n)?<(parameter=|\/function>)(?s:.*)"


class Qwen3Coder(msgspec.Struct, frozen=True, kw_only=True):
    """A ``dialect.ToolDialect``; ``frame`` is what stands on both sides of a value."""

    name: str = "qwen3_coder"
    begin: str = "<tool_call>"
    end: str = "</tool_call>"
    frame: str = "\n"

    @property
    def markers(self) -> tuple[str, ...]:
        return (self.begin, self.end)

    def recognizes(self, template: str) -> bool:
        return self.begin in template and FUNCTION in template and PARAMETER in template

    def parser(self, tools: Sequence[Tool]) -> Parser:
        return ReaderParser(lambda text, out: _Reading(text, out, self, tools).read())

    def grammar(self, tools: Sequence[Tool], *, at_most_one: bool, special: Mapping[str, int]) -> str:
        begin, end = marker(self.begin, special), marker(self.end, special)
        calls = "call" if at_most_one else 'call ("\\n" call)*'
        opened = [literal(f"{tool.name}>\n") for tool in tools]
        functions = " | ".join(f"{opening} arguments_{i}" for i, opening in enumerate(opened))
        tags = Tags(
            before=lambda name: f'"{PARAMETER}" {name} {literal(f">{self.frame}")}',
            after=f"{self.frame}{PARAMETER_END}\n",
            ends=_ENDS_VALUE,
        )
        return (
            f'calls: {calls}\ncall: {begin} "\\n{FUNCTION}" ({functions}) "{FUNCTION_END}\\n" {end}\n'
            + typed_arguments_rules(tools, tags)
        )


class _Reading:
    """One reply being read."""

    def __init__(self, text: Scanner, out: Output, dialect: Qwen3Coder, tools: Sequence[Tool]) -> None:
        self._text = text
        self._out = out
        self._begins = (dialect.begin, FUNCTION)
        self._end = dialect.end
        self._frame = dialect.frame
        self._tools = {tool.name: tool for tool in tools}

    def read(self) -> Steps[None]:
        text, out = self._text, self._out
        found = yield from text.until(self._begins, out.content)
        while found is not None:
            text.hold(found)
            name = yield from self._read_name(found)
            if name is None:
                out.content(text.let_go())
            else:
                text.let_go()
                out.begin(name)
                aside: list[str] = []
                arguments = TypedArguments(self._tools.get(name), out.arguments)
                found = yield from self._read_function(arguments, aside.append)
                out.content("".join(aside))
                if found is None or found in self._begins:
                    continue
                if found == FUNCTION_END:
                    yield from read_end(text, out, (self._end,))
            found = yield from text.until(self._begins, out.content)

    def _read_name(self, found: str) -> Steps[str | None]:
        if found != FUNCTION:
            yield from self._text.spaces()
            if not (yield from self._text.follows(FUNCTION)):
                return None
        name = yield from read_function_name(self._text)
        is_whole = yield from self._text.follows(">")
        return name if name and is_whole and (found != FUNCTION or name in self._tools) else None

    def _read_function(self, arguments: TypedArguments, aside: Emit) -> Steps[str | None]:
        """The parameters, and the marker that ended them; None at the end of the text, which closes nothing."""
        text = self._text
        found = yield from self._read_between(aside)
        while found == PARAMETER:
            text.hold(PARAMETER)
            key = yield from read_name(text)
            if not key or not (yield from text.follows(">")):
                aside(text.let_go())
                found = yield from self._read_between(aside)
                continue
            text.let_go()
            value = arguments.value(key)
            framed = _Framed(value.add, self._frame)
            found = yield from text.until(_AFTER_VALUE, framed.add)
            if found is None:
                framed.finish()
                value.cut()
                return None
            if found != PARAMETER_END:
                framed.finish()
            value.close()
            found = (yield from self._read_between(aside)) if found == PARAMETER_END else found.removeprefix("\n")
        if found is not None:
            arguments.close()
        return found

    def _read_between(self, aside: Emit) -> Steps[str | None]:
        yield from self._text.spaces()
        return (yield from self._text.until((PARAMETER, FUNCTION_END, self._end, *self._begins), aside))


class _Framed:
    """Lets text through without one ``frame``, a character or none, before it and one behind it."""

    def __init__(self, emit: Emit, frame: str) -> None:
        self._emit = emit
        self._frame = frame
        self._has_begun = False
        self._held = ""

    def add(self, text: str) -> None:
        if not self._has_begun:
            self._has_begun = True
            text = text.removeprefix(self._frame)
        text = self._held + text
        self._held = self._frame if text.endswith(self._frame) else ""
        text = text.removesuffix(self._frame)
        if text:
            self._emit(text)

    def finish(self) -> None:
        """What was held back is text."""
        if self._held:
            self._emit(self._held)
