"""Calls in a section of their own, each between markers around a header and a JSON object.

The section's markers may be missing, and whitespace may stand anywhere between markers. A family says how it reads the
header; see ``deepseek`` and ``kimi_k2``.
"""

from collections.abc import Callable

import msgspec

from quire.text.dialects.json_calls import read_object
from quire.text.dialects.parsing import Output
from quire.text.dialects.scanner import Scanner, Steps


class Header(msgspec.Struct, frozen=True):
    """What stands before a call's arguments."""

    name: str
    call_id: str | None = None


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A family's markers. ``before_end`` may stand between the arguments and the call's end."""

    begins: tuple[str, ...]
    ends: tuple[str, ...]
    call: str
    call_end: str
    before_end: str = ""
    read_header: Callable[[Scanner], Steps[Header | None]]
    """Reads up to the arguments, but for space before them; None where that is no call."""

    @property
    def markers(self) -> tuple[str, ...]:
        return (*self.begins, *self.ends, self.call, self.call_end)

    def read(self, text: Scanner, out: Output) -> Steps[None]:
        """A ``parsing.Reader``."""
        while (begin := (yield from text.until((*self.begins, self.call), out.content))) is not None:
            text.hold(begin)
            if begin != self.call:
                yield from text.spaces()
                if not (yield from text.follows(self.call)):
                    out.content(text.let_go())
                    continue
            yield from self._read_call(text, out)

    def _read_call(self, text: Scanner, out: Output) -> Steps[None]:
        header = yield from self.read_header(text)
        if header is None:
            out.content(text.let_go())
            return
        yield from text.spaces()
        is_told = False

        def begin() -> None:
            nonlocal is_told
            is_told = True
            text.let_go()
            out.begin(header.name, header.call_id)

        yield from read_object(text, begin, out.arguments)
        if not is_told:
            out.content(text.let_go())
            return
        for ends in ((self.before_end,), (self.call_end,), self.ends):
            yield from text.spaces()
            yield from text.follows_any(ends)
