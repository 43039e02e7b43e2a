"""The sampler as a whole: equal to the slow reference, alone and in any batch, fresh and resumed, fenced from NaN."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from quire.core.step import Admission, TopLogprobs
from quire.decoding.sampler import Sampled, Sampler

V = 41
Admit = Callable[..., Admission]
MakeSampler = Callable[[int, int], Sampler]
Reference = Callable[[np.ndarray, Admission, list[int]], int]

WISHES: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.0, "logprobs": 3},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 5},
    {"temperature": 1.3, "top_p": 0.8},
    {"temperature": 1.0, "top_p": 0.9, "top_k": 7, "logprobs": 0},
    {"temperature": 2.0, "min_p": 0.1},
    {"temperature": 2.0, "min_p": 0.05, "top_k": 9, "top_p": 0.7},
    {"temperature": 1.0, "repetition_penalty": 1.3},
    {"temperature": 0.0, "frequency_penalty": 1.5, "presence_penalty": 0.5},
    {"temperature": 0.9, "frequency_penalty": -0.5, "presence_penalty": -1.0, "logprobs": -1},
    {"temperature": 0.0, "repetition_penalty": 0.8, "logit_bias": {3: 4.0, 9: -100.0}},
    {"temperature": 1.0, "allowed_token_ids": (1, 4, 9, 16, 25, 36)},
    {"temperature": 0.0, "allowed_token_ids": (2, 3, 5)},
    {"temperature": 0.0, "min_tokens": 6, "stop": (7, 8, 30)},
    {"temperature": 1.5, "bad": ((5,), (6, 7), (7, 6, 6))},
    {"temperature": 0.0, "allowed_token_ids": (5, 6, 7), "bad": ((5, 6), (6, 7), (7, 5), (5, 5, 5))},
    {"temperature": 1.0, "top_k": 20, "min_tokens": 3, "stop": (0, 1, 2), "logit_bias": {0: 5.0}, "logprobs": 5},
    {"temperature": 5e-6, "top_k": 3},
    {"temperature": 1e-4, "top_p": 0.5},
    {"temperature": 1.0, "top_k": 1, "presence_penalty": 2.0},
    {"temperature": 1.0, "top_k": V + 5, "top_p": 1e-9},
    {"temperature": 0.0, "logprob_token_ids": (11, 3)},
    {"temperature": 1.0, "presence_penalty": 1.0, "logprobs": 4, "logprob_token_ids": tuple(range(0, V, 5))},
]
SLOTS = [(7 * i + 3) % 29 for i in range(len(WISHES))]


def logits_at(wish: int, position: int) -> torch.Tensor:
    """[V] float32, coarse enough that ties are common, as with bfloat16."""
    values = np.random.default_rng([wish, position]).normal(0, 3, V)
    return torch.from_numpy((values * 4).round().astype(np.float32) / 4)


class Run:
    """Some of the wishes going on together in one sampler."""

    def __init__(self, sampler: Sampler, admissions: dict[int, Admission]) -> None:
        self.sampler = sampler
        self.admissions = admissions
        self.outputs = {i: a.tokens[a.prompt_len :].tolist() for i, a in admissions.items()}
        self.entries: dict[int, list[TopLogprobs]] = {i: [] for i in admissions}
        for admission in admissions.values():
            self.sampler.admit(admission)

    def step(self, wishes: list[int]) -> None:
        positions = [self.admissions[i].prompt_len + len(self.outputs[i]) for i in wishes]
        logits = torch.stack([logits_at(i, position) for i, position in zip(wishes, positions, strict=True)])
        slots = np.array([self.admissions[i].slot for i in wishes], np.int32)
        sampled = self.sampler.sample(logits, slots, np.array(positions, np.int32))
        assert sampled.token_ids.dtype == np.int32
        for row, i in enumerate(wishes):
            self.outputs[i].append(int(sampled.token_ids[row]))
            if row in sampled.logprobs:
                self.entries[i].append(sampled.logprobs[row])


def admission_of(admit: Admit, wish: int, output: list[int] | tuple[int, ...] = ()) -> Admission:
    return admit(SLOTS[wish], [5, 6, 7, 5 + wish % 3], output, seed=1000 + wish, **WISHES[wish])


def same(one: list[TopLogprobs], other: list[TopLogprobs]) -> bool:
    return [(e.token_ids.tobytes(), e.logprobs.tobytes(), e.ranks) for e in one] == [
        (e.token_ids.tobytes(), e.logprobs.tobytes(), e.ranks) for e in other
    ]


@pytest.fixture
def batched(admit: Admit, make_sampler: MakeSampler) -> Run:
    """All wishes, twelve tokens each, in one batch."""
    everyone = list(range(len(WISHES)))
    run = Run(make_sampler(29, V), {i: admission_of(admit, i) for i in everyone})
    for _ in range(12):
        run.step(everyone)
    return run


def test_every_feature_equals_the_reference(batched: Run, reference: Reference) -> None:
    for i, admission in batched.admissions.items():
        expected: list[int] = []
        while len(expected) < 12:
            expected.append(reference(logits_at(i, 4 + len(expected)).numpy(), admission, expected))
        assert batched.outputs[i] == expected, WISHES[i]


def test_logprobs_are_of_raw_logits_for_those_who_asked(batched: Run) -> None:
    for i, wish in enumerate(WISHES):
        named = list(wish.get("logprob_token_ids", ()))
        k = wish.get("logprobs", 0 if named else None)
        if k is None:
            assert batched.entries[i] == []
            continue
        assert len(batched.entries[i]) == 12
        for step, entry in enumerate(batched.entries[i]):
            raw = torch.log_softmax(logits_at(i, 4 + step).double(), 0).numpy()
            given = [batched.outputs[i][step], *named]
            assert entry.token_ids.tolist()[: len(given)] == given
            assert len(entry.token_ids) == 1 + (V if k == -1 else k) + len(named)
            np.testing.assert_allclose(entry.logprobs, raw[entry.token_ids], rtol=1e-6, atol=1e-6)
            assert entry.ranks == tuple(1 + (raw > raw[token] + 1e-6).sum() for token in given)


def test_a_row_is_the_same_alone_and_in_any_batch(batched: Run, admit: Admit, make_sampler: MakeSampler) -> None:
    for i in range(len(WISHES)):
        alone = Run(make_sampler(29, V), {i: admission_of(admit, i)})
        for _ in range(12):
            alone.step([i])
        assert alone.outputs[i] == batched.outputs[i], WISHES[i]
        assert same(alone.entries[i], batched.entries[i])
    mixed = Run(make_sampler(29, V), {i: admission_of(admit, i) for i in range(len(WISHES))})
    order = np.random.default_rng(0)
    while pending := [i for i in mixed.outputs if len(mixed.outputs[i]) < 12]:
        mixed.step(order.permutation(pending)[: order.integers(1, 9)].tolist())
    assert mixed.outputs == batched.outputs


@pytest.mark.parametrize("num_before", [1, 5, 11])
def test_a_resumed_sequence_goes_on_as_if_never_stopped(
    batched: Run, admit: Admit, num_before: int, make_sampler: MakeSampler
) -> None:
    everyone = list(range(len(WISHES)))
    resumed = Run(make_sampler(29, V), {i: admission_of(admit, i, batched.outputs[i][:num_before]) for i in everyone})
    for _ in range(12 - num_before):
        resumed.step(everyone)
    assert resumed.outputs == batched.outputs
    for i in everyone:
        assert same(resumed.entries[i], batched.entries[i][num_before:])


def test_a_slot_remembers_nothing_of_who_had_it_before(batched: Run, admit: Admit, make_sampler: MakeSampler) -> None:
    """Every wish in turn in one slot, first with release in between, then without."""
    sampler = make_sampler(1, V)
    for must_release in (True, False):
        for i, wish in enumerate(WISHES):
            sampler.admit(admit(0, [5, 6, 7, 5 + i % 3], seed=1000 + i, **wish))
            tokens = [
                int(sampler.sample(logits_at(i, p)[None], np.array([0]), np.array([p])).token_ids[0])
                for p in range(4, 10)
            ]
            assert tokens == batched.outputs[i][:6], wish
            if must_release:
                sampler.release(np.array([0]))


def sample(sampler: Sampler, logits: torch.Tensor) -> Sampled:
    return sampler.sample(logits, np.arange(len(logits)), np.full(len(logits), 3))


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("wish", range(len(WISHES)))
def test_a_broken_row_fails_alone(admit: Admit, wish: int, poison: float, make_sampler: MakeSampler) -> None:
    sampler = make_sampler(3, V)
    for slot in range(3):
        sampler.admit(admit(slot, seed=slot, **WISHES[wish]))
    logits = torch.stack([logits_at(wish, 3)] * 3)
    sound = sample(sampler, logits.clone())
    sampler = make_sampler(3, V)
    for slot in range(3):
        sampler.admit(admit(slot, seed=slot, **WISHES[wish]))
    logits[1, 11] = poison
    broken = sample(sampler, logits)
    assert broken.token_ids.tolist() == [sound.token_ids[0], -1, sound.token_ids[2]]
    assert set(broken.logprobs) == set(sound.logprobs) - {1}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rules_that_leave_nothing_fail_that_row_only(
    admit: Admit, temperature: float, make_sampler: MakeSampler
) -> None:
    sampler = make_sampler(4, V)
    sampler.admit(admit(0, temperature=temperature))
    sampler.admit(admit(1, temperature=temperature, allowed_token_ids=(3, 4), bad=((3,), (4,)), logprobs=2))
    sampler.admit(admit(2, temperature=temperature, allowed_token_ids=(V, V + 1), top_k=3))
    sampler.admit(admit(3, temperature=temperature, allowed_token_ids=(3,), min_tokens=1, stop=(3,)))
    sampled = sample(sampler, torch.zeros(4, V))
    assert sampled.token_ids[0] >= 0 and sampled.token_ids[1:].tolist() == [-1, -1, -1]
    assert sampled.logprobs == {}


def test_masked_logits_are_legal(admit: Admit, make_sampler: MakeSampler) -> None:
    sampler = make_sampler(2, V)
    sampler.admit(admit(0, temperature=0.0))
    sampler.admit(admit(1, temperature=1.0, top_p=0.9))
    logits = torch.full((2, V), -torch.inf)
    logits[:, 17] = -1e30
    assert sample(sampler, logits).token_ids.tolist() == [17, 17]


def test_seeds_of_any_sign_and_size_are_taken(admit: Admit, make_sampler: MakeSampler) -> None:
    seeds = (-1, 2**64 - 1, -(2**63), 2**63, 0, 2**64)
    sampler = make_sampler(6, V)
    for slot, seed in enumerate(seeds):
        sampler.admit(admit(slot, seed=seed))
    tokens = sample(sampler, torch.zeros(6, V)).token_ids.tolist()
    assert tokens[0] == tokens[1] and tokens[2] == tokens[3] and tokens[4] == tokens[5]


def test_results_outlive_inference_mode(admit: Admit, make_sampler: MakeSampler) -> None:
    """A runner may hold logits made in inference mode, and admit in or out of it."""
    sampler = make_sampler(2, V)
    with torch.inference_mode():
        sampler.admit(admit(0, presence_penalty=1.0, temperature=0.0))
        logits = torch.zeros(2, V)
    sampler.admit(admit(1, presence_penalty=1.0, top_p=0.5))
    assert (sample(sampler, logits).token_ids >= 0).all()


@pytest.mark.parametrize("settings", [{"temperature": 1.0}, {"temperature": 1.0, "top_k": 40, "top_p": 0.95}])
def test_thread_count_and_batch_size_do_not_move_a_bit(
    admit: Admit, settings: dict[str, Any], make_sampler: MakeSampler
) -> None:
    """A vocabulary of real size, where work is split among threads and vector loops have tails."""
    vocab_size = 49157
    logits = torch.from_numpy(np.random.default_rng(5).normal(0, 2, (8, vocab_size)).astype(np.float32))
    sampler = make_sampler(8, vocab_size)
    for slot in range(8):
        sampler.admit(admit(slot, seed=slot, presence_penalty=0.3, logprobs=5, **settings))
    together = sample(sampler, logits.clone())
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for slot in range(8):
            sampler.admit(admit(slot, seed=slot, presence_penalty=0.3, logprobs=5, **settings))
            alone = sampler.sample(logits[slot : slot + 1].clone(), np.array([slot]), np.array([3]))
            assert alone.token_ids[0] == together.token_ids[slot]
            assert same([alone.logprobs[0]], [together.logprobs[slot]])
    finally:
        torch.set_num_threads(num_threads)


def test_a_rule_does_not_hide_a_broken_row(admit: Admit, make_sampler: MakeSampler) -> None:
    sampler = make_sampler(4, V)
    for slot in range(3):
        sampler.admit(admit(slot, allowed_token_ids=(1,)))
    sampler.admit(admit(3, allowed_token_ids=(1,), bad=((1,),)))
    logits = torch.zeros((4, V))
    logits[0, 5], logits[2, 6] = torch.nan, torch.inf
    sampled = sampler.sample(logits, np.arange(4), np.full(4, 3))
    assert sampled.token_ids.tolist() == [-1, 1, -1, -1]
    assert list(sampled.failures) == [3] and "bad_words" in sampled.failures[3]


def test_a_penalty_is_not_blamed_for_a_broken_row(admit: Admit, make_sampler: MakeSampler) -> None:
    sampler = make_sampler(3, V)
    for slot in range(3):
        sampler.admit(admit(slot, presence_penalty=0.5))
    logits = torch.zeros((3, V))
    logits[0, 5], logits[2] = torch.nan, -torch.inf
    sampled = sampler.sample(logits, np.arange(3), np.full(3, 3))
    assert (sampled.token_ids < 0).tolist() == [True, False, True] and not sampled.failures
