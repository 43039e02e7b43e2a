"""Sequences as the scheduler admits them, and a slow sampler to compare with: one row, plain numpy, in float64."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from llguidance import LLMatcher, LLTokenizer

from quire.core.request import ReasoningMarks
from quire.core.sampling_params import SamplingParams
from quire.core.step import Admission
from quire.decoding.grammar import GrammarVocabulary
from quire.decoding.random import uniforms
from quire.decoding.sampler import Sampler
from quire.kernels.cpu import library
from quire.kernels.cpu.sampling import NativeSampling
from quire.kernels.ops.sampling import Sampling, TorchSampling

NONE = -1


@pytest.fixture(scope="module", params=["torch", *library.LEVELS])
def sampling(request: pytest.FixtureRequest) -> Sampling:
    """What chooses: torch, or the native kernels of each level that this processor runs."""
    if request.param == "torch":
        return TorchSampling()
    for opened in library.available():
        if opened.level == request.param:
            return NativeSampling(opened, library.Pool(opened, 2))
    pytest.skip(f"the kernels {request.param} are not here, or do not run on this processor")


@pytest.fixture
def make_sampler(sampling: Sampling) -> Callable[[int, int], Sampler]:
    """make_sampler(max_num_seqs, vocab_size)."""
    return lambda max_num_seqs, vocab_size: Sampler(max_num_seqs, vocab_size, torch.device("cpu"), sampling)


@pytest.fixture
def admit() -> Callable[..., Admission]:
    """admit(slot, prompt, output, seed=, stop=, bad=, **sampling params)."""
    return make_admission


@pytest.fixture
def reference() -> Callable[[np.ndarray, Admission, list[int]], int]:
    """reference(logits [V], admission, output so far) -> token id, or -1."""
    return choose


class Vocabulary:
    """Five special tokens, the first two of which end a sequence; then all bytes, and some words."""

    is_tokenizer_wrapper = True
    eos_token_id = 0
    bos_token_id = None
    special_token_ids = tuple(range(5))
    words = ("ab", "abc", "the", "the ", " name", "name:", "no", "yes", "yesterday", '":', '{"', "one", " o", "xyz")
    tokens = (b"<end>", b"<stop>", b"<think>", b"</think>", b"<well>", *(bytes([i]) for i in range(256)))
    tokens = (*tokens, *(word.encode() for word in words))

    def __call__(self, text: str) -> list[int]:
        """Always the longest word."""
        rest, ids = text.encode(), []
        while rest:
            ids.append(
                max((i for i, t in enumerate(self.tokens) if rest.startswith(t)), key=lambda i: len(self.tokens[i]))
            )
            rest = rest[len(self.tokens[ids[-1]]) :]
        return ids


class LedLab:
    """Grammars over a small vocabulary; a ``Grammars`` for a sampler."""

    def __init__(self) -> None:
        self._vocabulary = Vocabulary()
        self._tokenizer = LLTokenizer(self._vocabulary, eos_token=[0, 1])
        self.vocab_size = self._tokenizer.vocab_size
        self.tokens = self._vocabulary.tokens

    def matcher(self, grammar: str) -> LLMatcher:
        return LLMatcher(self._tokenizer, grammar, log_level=0)

    renewed = matcher

    def vocabulary(self) -> GrammarVocabulary:
        return GrammarVocabulary(self.vocab_size, (0, 1))

    def id(self, word: str) -> int:
        return self._vocabulary.tokens.index(word.encode())

    def ids(self, text: str) -> list[int]:
        return self._vocabulary(text)

    def text(self, tokens: Iterable[int]) -> str:
        return b"".join(self._vocabulary.tokens[token] for token in tokens).decode()


@pytest.fixture(scope="session")
def led_lab() -> LedLab:
    return LedLab()


def make_admission(
    slot: int = 0,
    prompt: Any = (1, 2, 3),
    output: Any = (),
    *,
    seed: int = 0,
    stop: tuple[int, ...] = (),
    bad: tuple[tuple[int, ...], ...] = (),
    grammar: str | None = None,
    reasoning: ReasoningMarks | None = None,
    **params: Any,
) -> Admission:
    return Admission(
        slot=slot,
        handle=slot,
        tokens=np.array([*prompt, *output], np.int32),
        prompt_len=len(prompt),
        params=SamplingParams(**{"max_tokens": None, **params}),
        seed=seed,
        stop_token_ids=stop,
        bad_word_ids=bad,
        num_computed_tokens=0,
        grammar=grammar,
        reasoning=reasoning,
    )


def choose(logits: np.ndarray, admission: Admission, output: list[int]) -> int:
    prompt = admission.tokens[: admission.prompt_len].tolist()
    x = [float(value) for value in logits]
    if any(math.isnan(value) or value == math.inf for value in x):
        return NONE
    edit(x, admission, output)
    penalise(x, admission, prompt, output)
    if max(x) == -math.inf:
        return NONE
    params = admission.params
    order = sorted(range(len(x)), key=lambda token: (-x[token], token))
    if params.is_greedy:
        return order[0]
    weights = [math.exp((value - max(x)) / params.temperature) for value in x]
    weights = [weight if weight >= params.min_p else 0.0 for weight in weights]
    cut = bool(params.top_k) or params.top_p < 1
    if cut:
        kept = order[: params.top_k or len(order)]
        wanted, mass, nucleus = params.top_p * sum(weights[token] for token in kept), 0.0, []
        for token in kept:
            if mass >= wanted and params.top_p < 1:
                break
            nucleus.append(token)
            mass += weights[token]
    candidates = nucleus if cut else range(len(x))
    seed = np.array([admission.seed % 2**64], np.uint64)
    u = float(uniforms(seed, np.array([len(prompt) + len(output)]))[0])
    target, mass = u * sum(weights[token] for token in candidates), 0.0
    for token in candidates:
        mass += weights[token]
        if mass > target:
            return token
    raise AssertionError("the masses must reach the target")


def edit(x: list[float], admission: Admission, output: list[int]) -> None:
    params = admission.params
    if params.allowed_token_ids is not None:
        for token in range(len(x)):
            if token not in params.allowed_token_ids:
                x[token] = -math.inf
    for *beginning, last in admission.bad_word_ids:
        if output[len(output) - len(beginning) :] == beginning and last < len(x):
            x[last] = -math.inf
    if len(output) < params.min_tokens:
        for token in admission.stop_token_ids:
            if token < len(x):
                x[token] = -math.inf
    for token, amount in (params.logit_bias or {}).items():
        if token < len(x):
            x[token] += amount


def penalise(x: list[float], admission: Admission, prompt: list[int], output: list[int]) -> None:
    params = admission.params
    for token in {*prompt, *output}:
        if token < len(x):
            factor = params.repetition_penalty
            x[token] = x[token] / factor if x[token] > 0 else x[token] * factor
    for token in set(output):
        if token < len(x):
            x[token] -= params.frequency_penalty * output.count(token) + params.presence_penalty
