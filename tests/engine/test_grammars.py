"""Compiling beside the loop: what is kept, what is told, and that nothing waits that need not."""

import random
import threading
from typing import Any

import pytest
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from quire.engine import grammars as module
from quire.engine.grammars import CompiledGrammars


class Bytes:
    """A vocabulary of an end and all bytes, as llguidance takes it."""

    is_tokenizer_wrapper = True
    eos_token_id = 0
    bos_token_id = None
    special_token_ids = (0,)
    tokens = (b"<end>", *(bytes([i]) for i in range(256)))

    def __call__(self, text: str) -> list[int]:
        return [1 + byte for byte in text.encode()]


class Workshop:
    """CompiledGrammars that count what they do."""

    def __init__(self, **limits: Any) -> None:
        self.vocabularies = 0
        self.limits = limits
        self.grammars = CompiledGrammars(self._vocabulary, lambda: LLParserLimits(verbose_errors=False, **limits))

    def _vocabulary(self) -> LLTokenizer:
        self.vocabularies += 1
        return LLTokenizer(Bytes(), eos_token=[0])

    def compile(self, grammar: str) -> str | None:
        """Wait for it."""
        done, answers = threading.Event(), []

        def then(error: str | None) -> None:
            answers.append(error)
            done.set()

        self.grammars.compile(grammar, then)
        assert done.wait(30)
        return answers[0]


@pytest.fixture
def workshop() -> Workshop:
    return Workshop()


def regex(text: str) -> str:
    return LLMatcher.grammar_from_regex(text)


def test_the_vocabulary_is_built_with_the_first_grammar(workshop: Workshop) -> None:
    assert regex("yes") not in workshop.grammars
    assert workshop.vocabularies == 0
    assert workshop.compile(regex("yes")) is None and workshop.compile(regex("no")) is None
    assert workshop.vocabularies == 1
    assert workshop.grammars.vocabulary() == (257, (0,))


def test_matchers_are_apart(workshop: Workshop) -> None:
    workshop.compile(regex("yes"))
    one, other = workshop.grammars.matcher(regex("yes")), workshop.grammars.matcher(regex("yes"))
    assert one.consume_token(1 + ord("y")) and not other.validate_tokens([1 + ord("e")])
    assert other.consume_token(1 + ord("y"))


@pytest.mark.parametrize(
    "grammar, word",
    [("start: other\n", "other"), ("%%%", "cannot"), (regex("(a"), "cannot"), ('{"grammars": [', "cannot")],
)
def test_what_is_wrong_is_said_and_not_kept(workshop: Workshop, grammar: str, word: str) -> None:
    error = workshop.compile(grammar)
    assert error is not None and word in error and "\n" not in error and len(error) < 500
    assert grammar not in workshop.grammars
    assert workshop.grammars.matcher(grammar).is_error()
    assert workshop.compile(regex("yes")) is None, "and others are compiled"


def test_a_vocabulary_that_cannot_be_built_fails_its_requests() -> None:
    def refuse() -> LLTokenizer:
        raise RuntimeError("no tokenizer")

    answers: list[str | None] = []
    done = threading.Event()
    CompiledGrammars(refuse, LLParserLimits).compile("x", lambda error: (answers.append(error), done.set())[0])
    assert done.wait(30) and "no tokenizer" in str(answers[0])


def test_the_least_lately_used_are_forgotten(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_COUNT", 3)
    for letter in "abc":
        workshop.compile(regex(letter))
    workshop.grammars.matcher(regex("a"))
    workshop.compile(regex("d"))
    assert [regex(letter) in workshop.grammars for letter in "abcd"] == [True, False, True, True]
    assert not workshop.grammars.matcher(regex("b")).is_error(), "compiled again, in place"
    assert [regex(letter) in workshop.grammars for letter in "abcd"] == [True, True, False, True]


def test_long_grammars_take_the_place_of_many(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CHARS", 4 * len(regex("a")) + 2)
    for letter in "abcd":
        workshop.compile(regex(letter))
    workshop.compile(regex("e" * len(regex("a"))))
    assert [regex(letter) in workshop.grammars for letter in "abcd"] == [False, False, True, True]
    workshop.compile(regex("f" * 5 * len(regex("a"))))
    assert regex("c") in workshop.grammars, "what is too long to be kept drives nobody out"
    assert not workshop.grammars.matcher(regex("f" * 5 * len(regex("a")))).is_error()


def test_a_grammar_that_met_a_limit_is_made_anew() -> None:
    """Matchers of one grammar share their lexer's states, so together they meet a limit that none meets alone."""
    workshop = Workshop(max_lexer_states=120)
    grammar = regex("[ab]*a[ab]{30}")
    assert workshop.compile(grammar) is None

    def walk(matcher: Any, seed: int) -> bool:
        for letter in random.Random(seed).choices("ab", k=25):
            matcher.consume_token(1 + ord(letter))
        return not matcher.is_error()

    seed = next(seed for seed in range(50) if not walk(workshop.grammars.matcher(grammar), seed))
    alone = workshop.grammars.renewed(grammar)
    assert grammar not in workshop.grammars
    assert seed > 0 and walk(alone, seed)
    assert walk(workshop.grammars.matcher(grammar), seed)


def test_a_grammar_too_slow_to_begin_with_is_refused(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EXCESS_S", -1.0)
    error = workshop.compile(regex("[a-z]+"))
    assert error is not None and "too long" in error and regex("[a-z]+") not in workshop.grammars
