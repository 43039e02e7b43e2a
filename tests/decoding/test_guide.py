"""What leads a sequence is a function of its tokens, and combines as it is said to."""

import random
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher

from quire.core.request import ReasoningMarks
from quire.decoding import guide as guides
from quire.decoding.guide import Guide
from quire.decoding.reasoning import ReasoningBound

END, OTHER_END, THINK, DONE, WELL = range(5)
"""Special tokens of the lab's vocabulary; those of text come after them."""

GRAMMARS = [
    LLMatcher.grammar_from_regex("(yes|no|yesterday)"),
    LLMatcher.grammar_from_regex("[a-c]{2,9}"),
    LLMatcher.grammar_from_regex("abc(abc|xyz)*"),
    LLMatcher.grammar_from_lark('start: "the name: " name ("; the name: " name)*\nname: /[ab]+/\n'),
    LLMatcher.grammar_from_json_schema(
        {
            "type": "object",
            "properties": {"abc": {"enum": ["the one", "the other"]}, "n": {"type": "integer"}},
            "required": ["abc", "n"],
            "additionalProperties": False,
        }
    ),
]

THINKING = LLMatcher.grammar_from_lark(f'start: THOUGHT <[{DONE}]> ("abc" | "abcno")\nTHOUGHT: /(.|\\n)*/\n')


def marks(
    is_open: bool, budget: int, begin: tuple[int, ...] = (THINK,), end: tuple[int, ...] = (DONE,)
) -> ReasoningBound:
    return ReasoningBound(ReasoningMarks(begin_ids=begin, end_ids=end, is_open=is_open, budget=budget))


def allowed(guide: Guide, lab: SimpleNamespace) -> list[int]:
    """Ids that may follow."""
    if not guide.has_mask:
        return list(range(lab.vocab_size))
    mask = np.full(-(-lab.vocab_size // 32), 0x5A5A5A5A, np.int32)
    guide.fill(mask, len(mask))
    assert guide.error is None
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little", count=lab.vocab_size)
    found: list[int] = np.flatnonzero(bits).tolist()
    return found


def lead(lab: SimpleNamespace, grammar: str | None, bound: ReasoningBound | None = None, **options: bool) -> Guide:
    matcher = lab.matcher(grammar) if grammar is not None else None
    ends = (END, OTHER_END) if grammar is not None else ()
    return Guide(matcher, bound, ends, **({"has_jumps": True, "looks_ahead": True} | options))


@settings(deadline=None, max_examples=150)
@given(
    grammar=st.sampled_from([None, *GRAMMARS, THINKING, THINKING]),
    reasoning=st.sampled_from([None, (True, 3), (True, 0), (False, 2)]),
    looks_ahead=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_everything_follows_from_the_tokens(
    led_lab: SimpleNamespace, grammar: str | None, reasoning: tuple[bool, int] | None, looks_ahead: bool, seed: int
) -> None:
    """A guide that jumps, one that does not, and one made anew at every position agree on all that may follow."""
    lab, rng = led_lab, random.Random(seed)
    if grammar is None and reasoning is None:
        return

    def make(has_jumps: bool) -> Guide:
        bound = marks(*reasoning) if reasoning is not None else None
        return lead(lab, grammar, bound, has_jumps=has_jumps, looks_ahead=looks_ahead)

    jumping, walking = make(True), make(False)
    tokens: list[int] = []
    while len(tokens) < 40 and not jumping.is_over:
        choices = allowed(jumping, lab)
        assert choices == allowed(walking, lab)
        again = make(rng.random() < 0.5)
        for token in tokens:
            again.follow(token)
        assert allowed(again, lab) == choices and again.forced == walking.forced
        token = rng.choice(choices)
        run = jumping.advance(token)
        assert walking.advance(token) == []
        for forced in run:
            assert allowed(walking, lab) == [forced]
            assert walking.advance(forced) == []
        tokens += [token, *run]
        assert walking.is_over == jumping.is_over


def test_forced_text_and_the_end_come_at_once(led_lab: SimpleNamespace) -> None:
    guide = lead(led_lab, GRAMMARS[2])
    assert led_lab.text(guide.forced) == "abc"
    first = guide.forced[0]
    assert allowed(guide, led_lab) == [first]
    assert led_lab.text([first, *guide.advance(first)]) == "abc"
    yes = lead(led_lab, GRAMMARS[0])
    assert yes.advance(led_lab.id("no")) == [END] and yes.is_over
    assert not yes.has_mask and yes.advance(WELL) == [], "behind its end the sequence is free"


def test_text_is_not_forced_where_other_rules_have_a_say(led_lab: SimpleNamespace) -> None:
    guide = lead(led_lab, GRAMMARS[2], looks_ahead=False)
    assert not guide.forced and allowed(guide, led_lab) == [led_lab.id("abc")]
    end = lead(led_lab, GRAMMARS[0], looks_ahead=False)
    assert end.advance(led_lab.id("no")) == [END], "where only the end is left, it is"


def test_a_grammar_without_an_end_in_the_vocabulary_ends_by_itself(led_lab: SimpleNamespace) -> None:
    guide = Guide(led_lab.matcher(GRAMMARS[0]), None, (), has_jumps=True, looks_ahead=True)
    assert guide.advance(led_lab.id("no")) == [] and guide.is_over


@pytest.mark.parametrize("end", [(DONE,), (WELL, DONE)])
@pytest.mark.parametrize("budget", [0, 1, 5])
def test_reasoning_is_ended_by_its_budget(led_lab: SimpleNamespace, budget: int, end: tuple[int, ...]) -> None:
    guide = lead(led_lab, None, marks(True, budget, end=end))
    for _ in range(budget):
        assert not guide.forced and len(allowed(guide, led_lab)) == led_lab.vocab_size
        run = guide.advance(20)
    assert (list(guide.forced) if budget == 0 else run) == list(end)


def test_an_end_that_has_begun_is_not_begun_again(led_lab: SimpleNamespace) -> None:
    guide = lead(led_lab, None, marks(True, 2, end=(WELL, DONE)))
    assert guide.advance(20) == []
    assert guide.advance(WELL) == [DONE]


def test_reasoning_that_opens_again_has_what_is_left(led_lab: SimpleNamespace) -> None:
    guide = lead(led_lab, None, marks(False, 3))
    runs = [guide.advance(token) for token in (20, THINK, 21, 22, DONE, 23, THINK, 24, 25)]
    assert runs == [[]] * 7 + [[DONE], []]
    assert guide.advance(THINK) == [DONE], "nothing is left"


def test_a_budget_holds_within_a_grammar(led_lab: SimpleNamespace) -> None:
    guide = lead(led_lab, THINKING, marks(True, 2))
    assert guide.advance(led_lab.id("the")) == []
    assert END not in allowed(guide, led_lab) and DONE in allowed(guide, led_lab)
    run = guide.advance(led_lab.id(" o"))
    assert run[0] == DONE and led_lab.text(run[1:]) == "abc", "both are forced, one behind the other"
    early = lead(led_lab, THINKING, marks(True, 20))
    assert led_lab.text(early.advance(DONE)) == "abc"


def test_an_end_that_the_grammar_does_not_take_waits(led_lab: SimpleNamespace) -> None:
    half = bytes([0xC3])
    guide = lead(led_lab, THINKING, marks(True, 1))
    assert guide.advance(led_lab.tokens.index(half)) == [], "in the middle of a character"
    run = guide.advance(led_lab.tokens.index(bytes([0xA4])))
    assert run[0] == DONE
    plain = lead(led_lab, GRAMMARS[1], marks(True, 0))
    assert not plain.forced and DONE not in allowed(plain, led_lab), "a grammar without any reasoning"


@settings(deadline=None, max_examples=100)
@given(grammar=st.sampled_from(GRAMMARS), seed=st.integers(0, 10**6))
def test_an_offer_is_what_the_mask_says(led_lab: SimpleNamespace, grammar: str, seed: int) -> None:
    """What may follow is taken in as ``advance`` would, what may not changes nothing."""
    rng = random.Random(seed)
    offered, asked = lead(led_lab, grammar), lead(led_lab, grammar)
    for _ in range(20):
        if asked.is_over:
            break
        choices = allowed(asked, led_lab)
        token = rng.choice(choices)
        if asked.forced:
            assert offered.advance(token) == asked.advance(token)
            continue
        others = [other for other in rng.sample(range(led_lab.vocab_size), 5) if other not in choices]
        assert not any(offered.offer(other) for other in others)
        assert offered.offer(token) and offered.jump() == asked.advance(token)
        assert offered.is_over == asked.is_over and offered.error is None


def test_an_error_of_the_matcher_is_the_sequences(led_lab: SimpleNamespace) -> None:
    guide = lead(led_lab, GRAMMARS[0])
    guide.follow(led_lab.id("abc"))
    assert guide.error is not None and "cannot be followed" in guide.error and "\n" not in guide.error
    guide.follow(END)


def test_a_matcher_that_met_a_shared_limit_is_replaced_once(led_lab: SimpleNamespace) -> None:
    made = []

    def renew() -> LLMatcher:
        made.append(led_lab.matcher(GRAMMARS[1]))
        return made[-1]

    shared = led_lab.matcher(GRAMMARS[1])
    guide = Guide(shared, None, (END,), has_jumps=True, looks_ahead=True, renew=renew)
    guide.follow(led_lab.id("a"))
    shared.consume_token(led_lab.id("yes"))  # breaks it, as others' lexer states would
    before = allowed(lead(led_lab, GRAMMARS[1]), led_lab)
    assert shared.is_error() and set(allowed(guide, led_lab)) <= set(before) and len(made) == 1
    guide.follow(led_lab.id("b"))
    assert guide.error is None and END in allowed(guide, led_lab)
    made[0].consume_token(led_lab.id("yes"))
    guide.follow(led_lab.id("c"))
    assert guide.error is not None and len(made) == 1


def test_a_grammar_that_takes_too_long_ends_its_sequence(
    led_lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = partial(next, iter(np.arange(0, 100, guides.USUAL_S * 3).tolist()))
    monkeypatch.setattr(guides, "time", SimpleNamespace(perf_counter=clock, thread_time=clock))
    guide = lead(led_lab, GRAMMARS[1])
    steps = 0
    while guide.error is None and steps < 50:
        guide.follow(led_lab.id("a"))
        steps += 1
    assert guide.error == guides.TOO_SLOW
    assert 2 <= steps <= 6
