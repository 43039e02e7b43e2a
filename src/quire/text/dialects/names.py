"""Names that stand bare between markers."""

import re

from quire.text.dialects.scanner import Scanner, Steps

MAX_NAME_CHARS = 256
_ENDS = frozenset("<>\r\n")
_FUNCTION = re.compile(r"""[^\s{}\[\]()"'`,;=]+""")


def read_name(text: Scanner) -> Steps[str]:
    """A name, without space around it, up to the end of its line or tag; empty where there is none or it is too long.

    What ends it is not consumed.
    """
    yield from text.spaces()
    chars: list[str] = []
    while len(chars) < MAX_NAME_CHARS:
        char = yield from text.peek()
        if not char or char in _ENDS:
            return "".join(chars).rstrip()
        chars.append((yield from text.next()))
    return ""


def read_function_name(text: Scanner) -> Steps[str]:
    """A name as functions have them: one word, and no code."""
    name = yield from read_name(text)
    return name if _FUNCTION.fullmatch(name) else ""
