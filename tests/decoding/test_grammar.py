"""Sampling under a grammar: what is allowed, what is forced, and how it meets the request's other wishes."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from llguidance import LLMatcher

from quire.core.errors import NOTHING_LEFT
from quire.core.request import ReasoningMarks
from quire.core.step import Admission
from quire.decoding.guide import Guide
from quire.decoding.random import second_uniforms, uniforms
from quire.decoding.sampler import Sampled, Sampler
from quire.decoding.slots import Choice
from quire.kernels.ops.sampling import NO_TOKEN, Draws, Sampling, TorchSampling, by_temperature_alone

END, OTHER_END = 0, 1
LETTERS = LLMatcher.grammar_from_regex("[a-c]{2,9}")
WORDS = LLMatcher.grammar_from_regex("(yes|no)")
FORCED = LLMatcher.grammar_from_regex("[ab]: the name:[ab] one( more)?")
Admit = Callable[..., Admission]


class Bench:
    """A sampler of three slots, and logits that follow from a step's number."""

    def __init__(self, lab: Any, sampling: Sampling) -> None:
        self.lab = lab
        self.sampling = sampling
        self.sampler = self.make()

    def make(self) -> Sampler:
        return Sampler(3, self.lab.vocab_size, torch.device("cpu"), self.sampling, self.lab)

    def logits(self, step: int, rows: int = 1) -> torch.Tensor:
        return torch.randn((rows, self.lab.vocab_size), generator=torch.Generator().manual_seed(step)) * 3

    def sample(self, step: int, slots: list[int], position: int, sampler: Sampler | None = None) -> Sampled:
        sampler = sampler or self.sampler
        places = np.array(slots)
        sampler.prepare(places)
        return sampler.sample(self.logits(step, len(slots)), places, np.full(len(slots), position))


@pytest.fixture
def bench(led_lab: SimpleNamespace, sampling: Sampling) -> Bench:
    return Bench(led_lab, sampling)


def test_only_what_is_allowed_is_chosen(bench: Bench, admit: Admit) -> None:
    """Beside rows without a grammar, which choose as ever."""
    seen = set()
    for seed in range(60):
        bench.sampler.admit(admit(0, seed=seed, grammar=LETTERS, temperature=2.0))
        bench.sampler.admit(admit(1, temperature=0.0))
        bench.sampler.admit(admit(2, seed=seed, grammar=WORDS, temperature=0.0))
        sampled = bench.sample(seed, [0, 1, 2], 3)
        seen.add(bench.lab.text(sampled.token_ids[:1]))
        logits = bench.logits(seed, 3)
        assert sampled.token_ids[1] == int(logits[1].argmax())
        words = [bench.lab.id(word) for word in ("y", "n", "yes", "no")]
        assert sampled.token_ids[2] == max(words, key=lambda token: float(logits[2, token]))
    assert seen == {"a", "b", "c", "ab", "abc"}


def test_a_slot_with_a_grammar_is_never_bare(bench: Bench, admit: Admit) -> None:
    bench.sampler.admit(admit(0, grammar=WORDS, temperature=0.0))
    bench.sampler.admit(admit(1, temperature=0.0))
    choice_of = bench.sampler.parameters.choice_of
    assert choice_of(np.array([0, 1])) is Choice.LED and choice_of(np.array([1])) is Choice.LIKELIEST
    bench.sampler.release(np.array([0]))
    bench.sampler.admit(admit(0, temperature=0.0))
    assert choice_of(np.array([0, 1])) is Choice.LIKELIEST


def test_log_probabilities_are_of_the_raw_logits(bench: Bench, admit: Admit) -> None:
    bench.sampler.admit(admit(0, grammar=FORCED, temperature=0.0, logprobs=1))
    given = []
    for step in range(5):
        sampled = bench.sample(step, [0], 3 + step)
        assert not sampled.given.forced, "who asks for log probabilities gets one token at a time"
        top, token = sampled.logprobs[0], int(sampled.token_ids[0])
        expected = torch.log_softmax(bench.logits(step)[0], dim=0)
        assert top.token_ids.tolist() == [token, int(expected.argmax())]
        assert top.logprobs.tolist() == pytest.approx(expected[top.token_ids].tolist(), abs=1e-5)
        given.append(token)
    assert bench.lab.text(given) in ("a: the name:", "b: the name:")


def test_forced_tokens_come_with_the_one_before(bench: Bench, admit: Admit) -> None:
    bench.sampler.admit(admit(0, grammar=FORCED, temperature=0.0))
    sampled = bench.sample(0, [0], 3)
    text = bench.lab.text([int(sampled.token_ids[0]), *sampled.given.forced[0]])
    assert text in ("a: the name:", "b: the name:")
    sampled = bench.sample(1, [0], 20)
    assert bench.lab.text(sampled.given.forced[0]) == " one"
    sampled = bench.sample(2, [0], 23)
    rest = [*sampled.token_ids.tolist(), *sampled.given.forced.get(0, [])]
    assert bench.lab.text(rest) in ("<end>", "<stop>", " more<end>")
    assert sampled.given.concluded == {0}


@pytest.mark.parametrize(
    "wishes",
    [
        dict(temperature=1.5, repetition_penalty=1.7),
        dict(temperature=0.0, frequency_penalty=2.0, presence_penalty=1.0),
        dict(temperature=1.0, bad=((98, 102), (262,)), top_p=0.9),
        dict(temperature=1.0, logit_bias={102: 5.0, END: 3.0}, min_tokens=6, stop=(END, OTHER_END)),
        dict(temperature=1.0, top_k=3, reasoning=ReasoningMarks(begin_ids=(2,), end_ids=(3,), is_open=True, budget=4)),
        dict(temperature=1.0, logprobs=0, presence_penalty=2.0),
        dict(temperature=0.5, frequency_penalty=2.0, penalty_window=3),
    ],
    ids=str,
)
@pytest.mark.parametrize("grammar", [LETTERS, FORCED])
def test_a_resumed_sequence_chooses_as_it_would_have(
    bench: Bench, admit: Admit, grammar: str, wishes: dict[str, Any]
) -> None:
    """Penalties, bad words and grammars count forced tokens like all others."""
    for seed in range(4):
        bench.sampler.admit(admit(0, grammar=grammar, seed=seed, **wishes))
        output: list[int] = []
        while len(output) < 14 and not {END, OTHER_END}.intersection(output):
            resumed = bench.make()
            resumed.admit(admit(1, output=output, grammar=grammar, seed=seed, **wishes))
            step, position = 100 * seed + len(output), 3 + len(output)
            live, again = bench.sample(step, [0], position), bench.sample(step, [1], position, resumed)
            assert (live.token_ids.tolist(), live.given) == (again.token_ids.tolist(), again.given)
            if live.token_ids[0] < 0:
                assert live.failures == again.failures == {0: NOTHING_LEFT}
                break
            output += [int(live.token_ids[0]), *live.given.forced.get(0, [])]
        assert len(output) >= 2


def test_min_tokens_yields_where_only_the_end_is_left(bench: Bench, admit: Admit) -> None:
    for seed in range(20):
        bench.sampler.admit(admit(0, grammar=LETTERS, seed=seed, min_tokens=4, stop=(END, OTHER_END)))
        output: list[int] = []
        while not output or output[-1] not in (END, OTHER_END):
            sampled = bench.sample(100 + len(output), [0], 3 + len(output))
            assert sampled.token_ids[0] >= 0
            output += [int(sampled.token_ids[0]), *sampled.given.forced.get(0, [])]
        assert len(output) > 4 or len(bench.lab.text(output[:-1])) == 9
        assert sampled.given.concluded == {0}


def test_rules_that_leave_nothing_fail_the_row_alone(bench: Bench, admit: Admit) -> None:
    letters = [bench.lab.id(word) for word in ("a", "b", "c", "ab", "abc")]
    bench.sampler.admit(admit(0, grammar=LETTERS, bad=tuple((token,) for token in letters)))
    bench.sampler.admit(admit(1, grammar=LETTERS, allowed_token_ids=(50, 60)))
    bench.sampler.admit(admit(2, grammar=LETTERS, allowed_token_ids=(letters[0], 60)))
    sampled = bench.sample(0, [0, 1, 2], 3)
    assert sampled.token_ids.tolist() == [-1, -1, letters[0]]
    assert sampled.failures == {0: NOTHING_LEFT, 1: NOTHING_LEFT}


@pytest.mark.parametrize("rows", [[0, 1, 2], [1, 2], [0]], ids=str)
def test_broken_logits_are_not_the_grammars_fault(bench: Bench, admit: Admit, rows: list[int]) -> None:
    """Nor are those of a row beside it that has none."""
    for slot in range(3):
        bench.sampler.admit(admit(slot, grammar=LETTERS if slot in rows else None))
    logits = bench.logits(0, 3)
    logits[0, 20] = torch.nan  # what the grammar forbids
    logits[1] = -torch.inf
    sampled = bench.sampler.sample(logits, np.array([0, 1, 2]), np.full(3, 3))
    assert sampled.token_ids[:2].tolist() == [-1, -1] and sampled.token_ids[2] > 0
    assert not sampled.failures
    led = bench.sampler.lead(
        np.array([NO_TOKEN, NO_TOKEN, 5], np.int32), np.array([0, 1, 2]), np.full(3, 3), the_seventh
    )
    assert led.token_ids[:2].tolist() == [-1, -1] and not led.failures


def the_seventh(*args: np.ndarray) -> np.ndarray:
    """A Redraw that always takes the same token."""
    return np.full(len(args[0]), 7, np.int32)


def test_an_error_of_the_grammar_fails_the_row_alone(bench: Bench, admit: Admit) -> None:
    bench.sampler.admit(admit(0, grammar="no grammar at all"))
    bench.sampler.admit(admit(1, grammar=LETTERS, output=[bench.lab.id("xyz")]))
    bench.sampler.admit(admit(2, grammar=LETTERS))
    sampled = bench.sample(0, [0, 1, 2], 4)
    assert sampled.token_ids[:2].tolist() == [-1, -1] and sampled.token_ids[2] > 0
    assert all("cannot be followed" in reason for reason in sampled.failures.values()) and len(sampled.failures) == 2


def test_a_step_that_failed_leaves_nothing_behind(bench: Bench, admit: Admit) -> None:
    bench.sampler.admit(admit(0, grammar=LETTERS))
    bench.sampler.prepare(np.array([0]))  # and then the model raised
    bench.sampler.release(np.array([0]))
    bench.sampler.admit(admit(0, grammar=WORDS, temperature=0.0))
    bench.sampler.prepare(np.array([0]))
    assert bench.lab.text(bench.sample(0, [0], 3).token_ids)[0] in "yn"


def test_what_is_prepared_is_made_once(bench: Bench, admit: Admit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for it names equal slots, in an array of its own."""
    made = []
    fill = Guide.fill
    monkeypatch.setattr(Guide, "fill", lambda self, *args: made.append(self) or fill(self, *args))
    bench.sampler.admit(admit(0, grammar=LETTERS))
    bench.sampler.admit(admit(2, grammar=WORDS))
    for slots in ([0], [0, 2]):
        made.clear()
        bench.sampler.prepare(np.array(slots))
        bench.sampler.sample(bench.logits(0, len(slots)), np.array(slots), np.full(len(slots), 3))
        assert len(made) == len(slots)


@pytest.mark.parametrize("wishes", [{}, {"logprobs": 1}, {"frequency_penalty": 2.0}], ids=str)
def test_greedy_rows_choose_first_and_take_the_same(
    bench: Bench, admit: Admit, monkeypatch: pytest.MonkeyPatch, wishes: dict[str, Any]
) -> None:
    """Masks are made only of those whose likeliest token may not follow; and one has logits that are none."""
    made = []
    fill = Guide.fill
    monkeypatch.setattr(Guide, "fill", lambda self, *args: made.append(self) or fill(self, *args))
    grammar = LLMatcher.grammar_from_regex("[a-z ]{8,12}")
    likely = [bench.lab.id(word) for word in ("a", "b", "c", "ab", "y", "n")]

    def run(step: int, **rule: Any) -> list[Any]:
        """What ten positions choose."""
        sampler = bench.make()
        for slot in range(3):
            sampler.admit(admit(slot, grammar=grammar, temperature=0.0, **wishes, **rule))
        found, slots = [], np.arange(3)
        for position in range(3, 13):
            logits = bench.logits(100 * step + position, 3)
            logits[:, likely] += 6.0
            if position == 7:
                logits[1, 5] = float("nan")
            sampled = sampler.sample(logits, slots, np.full(3, position))
            found.append((sampled.token_ids.tolist(), sampled.given, sampled.failures))
        return found

    first = [run(step) for step in range(6)]
    num_made = len(made)
    assert 0 < num_made < 6 * 30 / 2
    no_end_yet = {"min_tokens": 1, "stop": (END,)}  # which the grammar says too; but who has a rule is masked first
    assert [run(step, **no_end_yet) for step in range(6)] == first
    assert len(made) > 2 * num_made
    assert all(chosen[4][0][1] == -1 and 1 not in chosen[4][2] for chosen in first)


def test_masks_wider_and_narrower_than_the_logits(sampling: Sampling, led_lab: SimpleNamespace, admit: Admit) -> None:
    """Embeddings are padded with ids of no token; and a tokenizer may know more tokens than a model."""
    for vocab_size in (led_lab.vocab_size + 50, 200):
        sampler = Sampler(1, vocab_size, torch.device("cpu"), sampling, led_lab)
        for seed in range(30):
            sampler.admit(admit(0, grammar=LETTERS, seed=seed, temperature=2.0))
            logits = torch.randn((1, vocab_size), generator=torch.Generator().manual_seed(seed))
            sampled = sampler.sample(logits, np.array([0]), np.array([3]))
            assert set(led_lab.text(sampled.token_ids)) <= set("abc")


@pytest.mark.parametrize("vocab_size", [1, 31, 32, 33, 64, 65, 1000, 4099])
def test_the_likeliest_of_some_rows_is_the_references(sampling: Sampling, vocab_size: int) -> None:
    """Of all tokens, and of those that masks allow; among equals, beside broken rows, and where nothing is left."""
    rng = np.random.default_rng(vocab_size)
    logits = torch.from_numpy(rng.integers(-3, 4, (70, vocab_size)).astype(np.float32))
    logits[3, vocab_size // 2], logits[4, 0], logits[5] = torch.nan, torch.inf, -torch.inf
    masks = rng.integers(-(2**31), 2**31, (70, -(-vocab_size // 32) + 2), np.int64).astype(np.int32)[:, :-1]
    masks[6] = 0
    masks[7:20] *= rng.random(masks[7:20].shape) < 0.1

    def likeliest(row: int, is_kept: Callable[[int], bool]) -> int:
        kept = {token: x for token, x in enumerate(logits[row].tolist()) if is_kept(token)}
        best = max(kept.values(), default=-np.inf)
        return min(token for token in kept if kept[token] == best) if np.isfinite(best) else NO_TOKEN

    def is_allowed(row: int, token: int) -> bool:
        return int(masks[row, token // 32]) >> (token % 32) & 1 == 1

    def chosen(given: torch.Tensor, rows: np.ndarray) -> np.ndarray:
        nothing = np.zeros(len(rows), np.float32)
        draws = Draws(nothing, nothing, np.ones(len(rows), np.int64), np.ones(len(rows)), np.zeros(len(rows)))
        before = given.numpy().tobytes()
        found = sampling.draw_tokens(given, draws, rows)
        assert found.dtype == np.int32 and (found[rows == 3] == NO_TOKEN).all() and given.numpy().tobytes() == before
        return found[rows != 3]

    for rows in (np.arange(70), np.array([2]), np.array([0, 4, 6, 8, 69])):
        some = [row for row in rows.tolist() if row != 3]
        assert chosen(logits, rows).tolist() == [likeliest(row, lambda token: True) for row in some]
        kept = logits.clone()
        sampling.keep_allowed(kept, rows, masks[rows])
        kept[3] = torch.nan
        assert chosen(kept, rows).tolist() == [likeliest(row, partial(is_allowed, row)) for row in some]


@pytest.mark.parametrize("vocab_size", [1, 31, 32, 33, 1000, 4099])
def test_masks_are_the_references(sampling: Sampling, vocab_size: int) -> None:
    rng = np.random.default_rng(vocab_size)
    masks = rng.integers(-(2**31), 2**31, (3, -(-vocab_size // 32) + 2), np.int64).astype(np.int32)[:, :-1]
    masks[1] = 0
    logits = torch.from_numpy(rng.standard_normal((5, vocab_size)).astype(np.float32))
    expected, rows = logits.clone(), np.array([0, 2, 4])
    TorchSampling().keep_allowed(expected, rows, masks)
    for row, mask in zip(rows, masks, strict=True):
        for token in range(vocab_size):
            is_allowed = int(mask[token // 32]) >> (token % 32) & 1
            assert float(expected[row, token]) == (float(logits[row, token]) if is_allowed else -np.inf)
    sampling.keep_allowed(logits, rows, masks)
    assert torch.equal(logits, expected)


@pytest.mark.parametrize(
    "wishes",
    [{}, {"temperature": 1.7}, {"top_p": 0.7}, {"top_k": 3}, {"min_p": 0.3}, {"top_k": 5, "top_p": 0.9, "min_p": 0.02}],
    ids=str,
)
def test_drawing_twice_gives_the_distribution_of_what_is_left(sampling: Sampling, wishes: dict[str, Any]) -> None:
    """Of the allowed tokens, cut as the request says: though most are drawn before masks are known."""
    wishes = {"temperature": 1.0} | wishes
    size, count, allowed = 300, 6000, [3, 40, 150, 151, 299]
    row = torch.randn(size, generator=torch.Generator().manual_seed(9)) * 2
    row[allowed] = torch.tensor([6.2, 7.0, 5.7, 6.5, 5.2])
    logits, seeds, positions = row.repeat(count, 1), np.arange(count, dtype=np.uint64), np.full(count, 3)
    draws = Draws(
        np.full(count, wishes["temperature"], np.float32),
        np.full(count, np.log(wishes.get("min_p", 1e-30)), np.float32),
        np.full(count, wishes.get("top_k", size)),
        np.full(count, wishes.get("top_p", 1.0)),
        uniforms(seeds, positions),
    )
    free = sampling.draw_tokens(logits, by_temperature_alone(draws, size))
    mask = np.zeros(-(-size // 32), np.uint32)
    for token in allowed:
        mask[token // 32] |= np.uint32(1 << token % 32)
    sampling.keep_allowed(logits, np.arange(count), np.repeat(mask.view(np.int32)[None], count, 0))
    seconds = replace(draws, uniforms=second_uniforms(seeds, positions))
    tokens = sampling.draw_tokens(logits, seconds, free=free)
    assert 0.2 < (tokens == free).mean() < 0.8
    counts = np.bincount(tokens, minlength=size)
    expected = count * kept_probabilities(row.numpy().astype(np.float64), allowed, wishes)
    assert not counts[expected == 0].any()
    held = expected > 0
    distance, freedom = ((counts - expected)[held] ** 2 / expected[held]).sum(), held.sum() - 1
    assert freedom > 0 and distance < freedom + 4 * np.sqrt(2 * freedom)


def kept_probabilities(logits: np.ndarray, allowed: list[int], wishes: dict[str, Any]) -> np.ndarray:
    """[V]: of the ``allowed`` tokens that min_p, top_k and top_p keep."""
    scores = np.full(len(logits), -np.inf)
    scores[allowed] = logits[allowed] / wishes["temperature"]
    masses = np.exp(scores - scores.max())
    masses[masses < wishes.get("min_p", 0.0)] = 0
    ranking = np.argsort(-masses, kind="stable")[: wishes.get("top_k", len(logits))]
    sums = np.cumsum(masses[ranking])
    kept = ranking[: np.searchsorted(sums, wishes.get("top_p", 1.0) * sums[-1]) + 1]
    probabilities = np.zeros(len(logits))
    probabilities[kept] = masses[kept]
    return probabilities / probabilities.sum()
