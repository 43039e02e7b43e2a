"""Grammars tried on a small byte-level vocabulary: how far a text goes, token by token."""

from collections.abc import Iterator
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from quire.core.structured_outputs import StructuredOutputs
from quire.text.grammar.door import GrammarDoor
from quire.text.grammar.lark import Piece
from quire.text.grammar.limits import parser_limits
from quire.text.grammar.vocabulary import build_vocabulary
from quire.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def vocabulary(byte_level: Tokenizer) -> LLTokenizer:
    return build_vocabulary(byte_level, [byte_level.eos_token_id])


@pytest.fixture(scope="session")
def door(byte_level: Tokenizer) -> Iterator[GrammarDoor]:
    door = GrammarDoor(byte_level, [byte_level.eos_token_id])
    yield door
    door.close()


@pytest.fixture(scope="session")
def is_match(byte_level: Tokenizer, vocabulary: LLTokenizer):
    """(grammar, text) -> whether the text is a whole answer, and every token of it is in its mask."""

    def is_match(grammar: Piece | str, text: str) -> bool:
        whole = grammar.text() if isinstance(grammar, Piece) else grammar
        matcher = LLMatcher(vocabulary, whole, log_level=0, limits=parser_limits())
        assert not matcher.is_error(), matcher.get_error()
        for token in byte_level.encode(text, add_special_tokens=False):
            if matcher.validate_tokens([token]) == 0:
                return False
            matcher.consume_token(token)
            assert not matcher.is_error(), matcher.get_error()
        return matcher.is_accepting()

    return is_match


@pytest.fixture(scope="session")
def check(door: GrammarDoor, is_match: Any):
    """(accepted, rejected, shape) -> the grammar's text; every instance is judged as it should be."""

    def check(accepted: tuple[str, ...] = (), rejected: tuple[str, ...] = (), **shape: Any) -> str:
        text = door.check(StructuredOutputs(**shape))
        assert [one for one in accepted if not is_match(text, one)] == []
        assert [one for one in rejected if is_match(text, one)] == []
        return text

    return check
