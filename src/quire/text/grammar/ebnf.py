"""A grammar as a client writes it: GBNF and its kin (``::=``), or Lark."""

import re
from collections.abc import Mapping

from quire.core.errors import InvalidRequest
from quire.text.grammar import gbnf
from quire.text.grammar.gbnf_lark import gbnf_piece
from quire.text.grammar.lark import Piece, grammar_piece

_NOISE = re.compile(r"\"(?:\\.|[^\"\\\n])*\"|\[(?:\\.|[^\]\\\n])*\]|/(?:\\.|[^/\\\n])+/|#[^\n]*|//[^\n]*", re.DOTALL)
"""Where an arrow would be no arrow: strings, classes, regular expressions, comments."""
_LARK_START = re.compile(r"^[ \t]*\??start(?:\[[^\]\n]*\])?[ \t]*:", re.MULTILINE)


def grammar_of(text: str, path: str, special: Mapping[str, int]) -> Piece:
    """The grammar that a client wrote. Raises InvalidRequest for what is neither, or is not well-formed GBNF."""
    if "::=" in _NOISE.sub('""', text):
        return gbnf_piece(gbnf.parse(text, path, special), path)
    if not is_lark(text):
        raise InvalidRequest(
            f"{path} is neither GBNF (root ::= ...) nor Lark with a rule named start (start: ...).", param=path
        )
    return grammar_piece(text)


def is_lark(text: str) -> bool:
    """Whether a text has the rule that a Lark grammar begins with."""
    return _LARK_START.search(text) is not None
