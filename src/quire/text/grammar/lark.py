"""Grammars as pieces of text in llguidance's dialect of Lark, and how larger ones are put together from them.

Law: pieces never clash. A rule, a terminal and a grammar within a grammar are named by what they say, so what has the
same name is the same.

Of a piece it is known whether it is regular. A lexer decides where a terminal ends before it looks at what comes next,
so ``/[a-z]*/ "end"`` would never find its end; neighbours that are regular are joined into one terminal instead, whose
meaning is exact.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

WHITESPACE = r"[ \t\r\n]{1,128}"
"""Between the parts of a JSON value. Without a bound a model may write spaces to the end of its budget."""

MAX_DEPTH = 12
"""Of parentheses in one rule; llguidance takes 28."""

_ANY = "/(?s:.*)/"
_SPELLED_OTHERWISE = re.compile(r"\\.|[\n\r/]", re.DOTALL)
_TOKEN = re.compile(r"<\[\d+\]>")
_IN_REGEX = {"\n": r"\n", "\r": r"\r", "/": r"\/", "\\\n": r"\n", "\\\r": r"\r"}


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a grammar: an expression, with the rules and the grammars that it refers to."""

    expression: str
    rules: Mapping[str, str] = {}
    """Names of rules and terminals -> what stands behind the colon; a name may have options, ``name[lazy]``."""
    grammars: Mapping[str, str] = {}
    """Names -> whole Lark grammars, each with a ``start`` of its own."""
    is_regular: bool = False
    """The expression may stand inside a terminal. It then refers to terminals only."""
    depth: int = 0
    """How deep its parentheses are nested."""

    @property
    def is_token(self) -> bool:
        """One special token, by its id."""
        return _TOKEN.fullmatch(self.expression) is not None

    def text(self) -> str:
        """The whole grammar, as ``Request.grammar`` holds it and llguidance reads it."""
        whole = self.as_terminal()
        lines = [f"start: {whole.expression}", *(f"{name}: {body}" for name, body in whole.rules.items())]
        grammars = [{"lark_grammar": "\n".join(lines) + "\n"}]
        grammars += [{"name": name, "lark_grammar": lark} for name, lark in whole.grammars.items()]
        return json.dumps({"grammars": grammars}, ensure_ascii=False)

    def as_terminal(self) -> "Piece":
        """The same, as an expression for rules; a regular one becomes a single terminal."""
        if not self.is_regular:
            return self
        name = _name("T", self.expression)
        return Piece(expression=name, rules={**self.rules, name: self.expression})


# --- what pieces are made of ----------------------------------------------------------------------------------------


def literal(text: str) -> str:
    """Text that must be written exactly, as Lark spells it."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def regex_literal(pattern: str) -> str:
    """A regular expression, as Lark spells it."""
    return f"/{regex_body(pattern)}/" if pattern else '""'  # two slashes would begin a comment


def regex_body(pattern: str) -> str:
    """The same without its slashes, to be a part of a longer one."""
    return _SPELLED_OTHERWISE.sub(lambda found: _IN_REGEX.get(found[0], found[0]), pattern)


def text_piece(text: str) -> Piece:
    return Piece(expression=literal(text), is_regular=True)


def regex_piece(pattern: str) -> Piece:
    """Text that matches the whole pattern: anchors at its ends change nothing."""
    return Piece(expression=regex_literal(pattern), is_regular=True)


def any_text() -> Piece:
    return Piece(expression=_ANY, is_regular=True)


def token_piece(token_id: int) -> Piece:
    """One token, whatever it is."""
    return Piece(expression=f"<[{token_id}]>")


def json_piece(schema: Mapping[str, object]) -> Piece:
    """A JSON value; options for llguidance stand in the schema's ``x-guidance``."""
    return Piece(expression=f"%json {json.dumps(schema, ensure_ascii=False)}")


def grammar_piece(lark: str) -> Piece:
    """A whole Lark grammar, with names of its own."""
    name = _name("g", lark)
    return Piece(expression=f"@{name}", grammars={name: lark})


def marker_parts(text: str, special: Mapping[str, int]) -> list[Piece]:
    """Text with special tokens in it, which are written as tokens; ``special`` has their ids by their names."""
    names = sorted((name for name in special if name), key=len, reverse=True)
    parts = re.split("(" + "|".join(map(re.escape, names)) + ")", text) if names else [text]
    return [token_piece(special[part]) if part in special else text_piece(part) for part in parts if part]


# --- how they are put together --------------------------------------------------------------------------------------


def sequence(pieces: Iterable[Piece]) -> Piece:
    """One behind the other."""
    runs = [list(run) for _, run in itertools.groupby(pieces, key=lambda piece: piece.is_regular)]
    joined = [piece for run in runs for piece in ([_joined(" ", run)] if run[0].is_regular else run)]
    if not joined:
        return text_piece("")
    return joined[0] if len(joined) == 1 else _joined(" ", [piece.as_terminal() for piece in joined])


def either(pieces: Sequence[Piece]) -> Piece:
    """One of several; there is at least one."""
    if len(pieces) == 1:
        return pieces[0]
    if all(piece.is_regular for piece in pieces):
        return _joined(" | ", pieces)
    return _joined(" | ", [piece.as_terminal() for piece in pieces])


def repeated(piece: Piece, least: int = 0, most: int | None = None) -> Piece:
    """``least`` to ``most`` times, or any number of times from ``least`` on."""
    if most == 0:
        return text_piece("")
    body = piece if piece.is_regular else piece.as_terminal()
    return _made(f"({body.expression}){times(least, most)}", [body])


def times(least: int, most: int | None) -> str:
    """What stands behind an expression that is repeated; ``most`` is not 0."""
    usual = {(0, None): "*", (1, None): "+", (0, 1): "?", (1, 1): ""}
    return usual.get((least, most), f"{{{least},{'' if most is None else most}}}")


def without(piece: Piece, excluded: Piece) -> Piece:
    """A regular piece, but for texts that ``excluded`` matches as a whole."""
    assert piece.is_regular and excluded.is_regular
    return _made(f"({piece.expression} & ~({excluded.expression}))", [piece, excluded])


def until(end: Sequence[Piece], text: Piece | None = None) -> Piece:
    """Free text up to where ``end`` first begins, and the end.

    The end's first piece is a token, or regular: then the text stops as soon as that is complete.
    """
    before = text or any_text()
    if not end or not end[0].is_regular:
        return sequence([before, *end])
    body = f"{before.expression} {end[0].expression}"
    name = _name("until_", body)
    found = Piece(expression=name, rules={**before.rules, **end[0].rules, f"{name}[lazy]": body})
    return sequence([found, *end[1:]])


def _joined(by: str, pieces: Sequence[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    return _made(f"({by.join(piece.expression for piece in pieces)})", pieces)


def _made(expression: str, of: Sequence[Piece]) -> Piece:
    """An expression in parentheses; what is nested too deeply for llguidance gets a name."""
    rules: dict[str, str] = {}
    grammars: dict[str, str] = {}
    for piece in of:
        rules |= piece.rules
        grammars |= piece.grammars
    is_regular = all(piece.is_regular for piece in of)
    depth = 1 + max(piece.depth for piece in of)
    if depth > MAX_DEPTH:
        name = _name("T" if is_regular else "part_", expression)
        rules[name] = expression
        expression, depth = name, 0
    return Piece(expression=expression, rules=rules, grammars=grammars, is_regular=is_regular, depth=depth)


def _name(kind: str, content: str) -> str:
    digest = hashlib.blake2b(content.encode(), digest_size=10).hexdigest()
    return kind + (digest.upper() if kind.isupper() else digest)
