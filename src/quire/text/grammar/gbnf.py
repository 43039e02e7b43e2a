"""GBNF, as llama.cpp reads it, and the EBNF of xgrammar, which is much the same: text to a tree of rules.

A rule goes on to the next ``name ::=``, so it may take any number of lines. Comments begin with ``#``. What is read:
"text", [classes], ``.``, rules, (groups), alternatives, ``* + ?`` and ``{m,n}``, tokens as ``<name>`` or ``<[id]>``,
``!`` before a token for any other, and the escapes of C, of Unicode and of classes.
Format: llama.cpp's grammars/README.md.
"""

import re
from collections.abc import Mapping
from typing import NoReturn

import msgspec

from quire.core.errors import InvalidRequest
from quire.text.grammar.characters import ANY, Characters
from quire.text.grammar.limits import MAX_NESTING

MAX_REPEATS = 1_000_000
ROOT = "root"


class Text(msgspec.Struct, frozen=True):
    """These characters."""

    text: str


class OneOf(msgspec.Struct, frozen=True):
    """One character of a set."""

    characters: Characters


class Token(msgspec.Struct, frozen=True):
    """A special token, or any but that."""

    token_id: int
    is_negated: bool = False


class Rule(msgspec.Struct, frozen=True):
    """What the rule of this name says."""

    name: str


class Sequence(msgspec.Struct, frozen=True):
    parts: "tuple[Node, ...]"


class Either(msgspec.Struct, frozen=True):
    parts: "tuple[Node, ...]"


class Repeat(msgspec.Struct, frozen=True):
    part: "Node"
    least: int
    most: int | None


Node = Text | OneOf | Token | Rule | Sequence | Either | Repeat

_SPACE = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*|[0-9][A-Za-z0-9_.-]*")
_DEFINES = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*::=")
_COUNTS = re.compile(r"\{\s*(\d{0,9})\s*(,?)\s*(\d{0,9})\s*\}")
_TOKEN = re.compile(r"(!?)<(?:\[(\d{1,9})\]|([^>\n]*))>")
_HEX = re.compile(r"x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})")
_ESCAPES = {
    **dict(zip("nrtabfv0", "\n\r\t\a\b\f\v\0", strict=True)),
    **{char: char for char in "\\\"'[]-^?/.(){}*+|$ "},
}


def parse(text: str, path: str, special: Mapping[str, int]) -> dict[str, Node]:
    """Rules by their names, every one that is used among them. Raises InvalidRequest with line and column."""
    return _Parser(text, path, special).rules()


class _Parser:
    def __init__(self, text: str, path: str, special: Mapping[str, int]) -> None:
        self._text = text
        self._path = path
        self._special = special
        self._at = 0
        self._depth = 0
        self._used: dict[str, int] = {}

    def rules(self) -> dict[str, Node]:
        rules: dict[str, Node] = {}
        self._skip()
        while self._at < len(self._text):
            begun = self._at
            name = self._match(_NAME)
            if name is None or self._match(_DEFINES) is None:
                self._fail("a rule must begin here, name ::=", begun)
            if name[0] in rules:
                self._fail(f"the rule {name[0]!r} is defined twice", begun)
            rules[name[0]] = self._either()
            self._skip()
        for used, at in self._used.items():
            if used not in rules:
                self._fail(f"there is no rule {used!r}", at)
        if ROOT not in rules:
            raise InvalidRequest(f"{self._path} has no rule named {ROOT}: the answer begins there.", param=self._path)
        return rules

    def _either(self) -> Node:
        parts = [self._sequence()]
        while self._take("|"):
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while (part := self._item()) is not None:
            parts.append(self._repeated(part))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _item(self) -> Node | None:
        """One thing, or None where a sequence ends."""
        self._skip()
        begun = self._at
        sign = self._text[begun : begun + 1]
        match sign:
            case "" | "|" | ")":
                return None
            case '"':
                return Text(self._string())
            case "[":
                return OneOf(self._class())
            case ".":
                self._at += 1
                return OneOf(ANY)
            case "(":
                return self._group()
            case "<" | "!":
                return self._token()
        name = self._match(_NAME)
        if name is None:
            self._fail(f"{sign!r} is not understood", begun)
        if _DEFINES.match(self._text, self._at):
            self._at = begun
            return None
        self._used.setdefault(name[0], begun)
        return Rule(name[0])

    def _group(self) -> Node:
        begun = self._at
        self._at += 1
        if self._text.startswith("=", self._at):
            self._fail("look-ahead is not supported", begun)
        self._depth += 1
        if self._depth > MAX_NESTING:
            self._fail(f"parentheses are nested more than {MAX_NESTING} deep", begun)
        inner = self._either()
        self._depth -= 1
        if not self._take(")"):
            self._fail("this parenthesis is not closed", begun)
        return inner

    def _repeated(self, part: Node) -> Node:
        while True:
            self._skip()
            begun = self._at
            sign = self._text[begun : begun + 1]
            if sign and sign in "*+?":
                self._at += 1
                least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
            elif sign == "{":
                least, most = self._counts()
            else:
                return part
            if isinstance(part, Repeat):
                self._fail("what is repeated is repeated again: put it into parentheses", begun)
            part = Repeat(part, least, most)

    def _counts(self) -> tuple[int, int | None]:
        begun = self._at
        found = self._match(_COUNTS)
        if found is None or not (found[1] or found[3]):
            self._fail("a repetition is written {m}, {m,}, {,n} or {m,n}", begun)
        least = int(found[1] or 0)
        most = int(found[3]) if found[3] else None if found[2] else least
        if max(least, most or 0) > MAX_REPEATS or (most is not None and most < least):
            self._fail(f"a repetition goes up to {MAX_REPEATS} times, and from few to many", begun)
        return least, most

    def _token(self) -> Token:
        begun = self._at
        found = self._match(_TOKEN)
        if found is None:
            self._fail("a token is written <name> or <[id]>", begun)
        name = f"<{found[3]}>"
        if found[2] is None and name not in self._special:
            self._fail(f"the model has no special token {name!r}", begun)
        return Token(self._special[name] if found[2] is None else int(found[2]), bool(found[1]))

    def _string(self) -> str:
        begun = self._at
        self._at += 1
        chars: list[str] = []
        while not self._take('"', skip=False):
            if self._at >= len(self._text):
                self._fail("this text is not closed", begun)
            chars.append(self._char())
        return "".join(chars)

    def _class(self) -> Characters:
        begun = self._at
        self._at += 1
        is_negated = self._take("^", skip=False)
        ranges: list[tuple[int, int]] = []
        while not self._take("]", skip=False):
            if self._at >= len(self._text):
                self._fail("this class is not closed", begun)
            low = high = ord(self._char())
            if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                high = ord(self._char()) if self._at < len(self._text) else -1
            if high < low:
                self._fail("a range in this class goes backwards", begun)
            ranges.append((low, high))
        found = Characters.of(ranges)
        found = ~found if is_negated else found
        if not found.ranges:
            self._fail("this class holds no character", begun)
        return found

    def _char(self) -> str:
        """A character, or an escape that stands for one."""
        begun = self._at
        char = self._text[begun]
        self._at += 1
        if char != "\\":
            return char
        if found := self._match(_HEX):
            code = int(found[1] or found[2] or found[3], 16)
            if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
                self._fail("this escape stands for no character", begun)
            return chr(code)
        escaped = self._text[self._at : self._at + 1]
        if escaped not in _ESCAPES or not escaped:
            self._fail(f"the escape {self._text[begun : begun + 2]!r} is not known", begun)
        self._at += 1
        return _ESCAPES[escaped]

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
        return found

    def _skip(self) -> None:
        self._match(_SPACE)

    def _take(self, sign: str, *, skip: bool = True) -> bool:
        if skip:
            self._skip()
        if not self._text.startswith(sign, self._at):
            return False
        self._at += len(sign)
        return True

    def _fail(self, why: str, at: int) -> NoReturn:
        line = self._text.count("\n", 0, at) + 1
        column = at - self._text.rfind("\n", 0, at)
        raise InvalidRequest(
            f"{self._path} is not well-formed (line {line}, column {column}): {why}.", param=self._path
        )
