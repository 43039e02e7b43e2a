"""Masks speak of the tokenizer's own tokens: their bytes, which of them are special, which end a sequence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from quire.text.grammar.lark import any_text, regex_piece, text_piece
from quire.text.grammar.vocabulary import Vocabulary, build_vocabulary
from quire.text.tokenizer import Tokenizer


@pytest.fixture(scope="module", params=["byte_level", "sentencepiece_tokenizer"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def eos(tokenizer: Tokenizer) -> int:
    assert tokenizer.eos_token_id is not None
    return tokenizer.eos_token_id


@pytest.fixture(scope="module")
def built(tokenizer: Tokenizer, eos: int) -> LLTokenizer:
    return build_vocabulary(tokenizer, [eos], tokenizer.vocab_size + 70)


def allowed(matcher: LLMatcher) -> set[int]:
    mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    assert not matcher.is_error(), matcher.get_error()
    return set(np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist())


def is_text(token: bytes) -> bool:
    try:
        return token.decode() != ""
    except UnicodeDecodeError:
        return False


def test_every_token_has_its_bytes(tokenizer, built):
    for token in range(tokenizer.vocab_size):
        assert built.is_special_token(token) == tokenizer.is_special(token)
        if not tokenizer.is_special(token) and tokenizer.token_bytes(token) != b"\xff":  # which is in no text
            assert built.decode_bytes([token]) == tokenizer.token_bytes(token)


def test_masks_are_as_wide_as_the_logits(tokenizer, built):
    assert built.vocab_size == tokenizer.vocab_size + 70


def test_text_has_no_special_tokens_and_no_padding(tokenizer, built, eos):
    tokens = allowed(LLMatcher(built, any_text().text()))
    assert max(tokens) < tokenizer.vocab_size
    assert {token for token in tokens if tokenizer.is_special(token)} == {eos}
    assert all(tokenizer.token_bytes(token) for token in tokens)
    plain = [token for token in range(tokenizer.vocab_size) if not tokenizer.is_special(token)]
    assert not [token for token in plain if is_text(tokenizer.token_bytes(token)) and token not in tokens]


def test_the_end_only_where_the_answer_is_complete(tokenizer, built, eos):
    matcher = LLMatcher(built, regex_piece("[ab]{2}").text())
    assert eos not in allowed(matcher)
    assert matcher.consume_tokens(Vocabulary.of(tokenizer, [eos])("ab"))
    assert allowed(matcher) == {eos}


@given(st.text(max_size=300))
def test_forced_text_becomes_the_tokenizers_tokens(tokenizer, eos, text):
    vocabulary = Vocabulary.of(tokenizer, [eos])
    ids = vocabulary(text)
    written = b"".join([tokenizer.token_bytes(token) for token in ids])
    assert text.encode().startswith(written)
    assert not any(tokenizer.is_special(token) for token in ids)
    if 0 < len(text) <= 256:
        assert written == text.encode()
        ours = tokenizer.encode(text, False)
        if [tokenizer.token_bytes(token) for token in ours] and b"".join(map(tokenizer.token_bytes, ours)) == written:
            assert ids == ours or any(map(tokenizer.is_special, ours))


def test_forced_text_that_is_written_like_a_special_token(tokenizer, built, eos):
    name = tokenizer.id_to_token(eos)
    matcher = LLMatcher(built, text_piece(name).text())
    while not matcher.is_accepting():
        tokens = allowed(matcher) - {eos}
        assert tokens and not any(map(tokenizer.is_special, tokens))
        matcher.consume_token(min(tokens))
        assert not matcher.is_error()


def test_long_forced_text_is_not_tokenized_as_a_whole(tokenizer, eos):
    asked: list[int] = []

    def encode(text: str) -> list[int]:
        asked.append(len(text))
        return tokenizer.encode(text, False)

    known = Vocabulary.of(tokenizer, [eos])
    vocabulary = Vocabulary(known.tokens, known.special_token_ids, [eos], encode)
    assert vocabulary("word " * 100_000)
    assert max(asked) < 1000


def test_a_model_without_an_end(tokenizer):
    built = build_vocabulary(tokenizer, [])
    matcher = LLMatcher(built, text_piece("a").text())
    assert matcher.consume_tokens(Vocabulary.of(tokenizer, [])("a"))
    assert allowed(matcher) == {tokenizer.vocab_size}  # an id that no model chooses
