"""Native sampling: what is kept, how often it is drawn, and the same bits whoever is beside a row, on any threads.

The masses behind a draw are found by sweeping the uniform number: token borders lie where the drawn token changes.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from quire.kernels.cpu.library import Library, Pool
from quire.kernels.cpu.sampling import NativeSampling
from quire.kernels.ops.sampling import Draws, Sampling, Scores, TorchSampling

pytestmark = pytest.mark.native

INF, NAN = float("inf"), float("nan")
ALMOST_ONE = 1 - 2.0**-53
SIZES = [1, 3, 41, 64, 65, 1000, 4099]


@pytest.fixture
def sampling(level: Library) -> NativeSampling:
    return NativeSampling(level, Pool(level, 2))


def normal(*shape: int, seed: int = 0, scale: float = 2.5) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draws(
    n: int,
    vocab_size: int,
    uniforms: Any,
    *,
    temperature: float = 1.0,
    min_p: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Draws:
    with np.errstate(divide="ignore"):
        log_min_p = np.full(n, np.log(np.float64(min_p)), np.float32)
    return Draws(
        np.full(n, temperature, np.float32),
        log_min_p,
        np.full(n, top_k or vocab_size, np.int64),
        np.full(n, top_p, np.float64),
        np.broadcast_to(np.asarray(uniforms, np.float64), n),
    )


def drawn(sampling: Sampling, logits: Tensor, uniforms: Any, **wishes: Any) -> list[int]:
    """Tokens of one row [V], one for each uniform number."""
    n = len(uniforms)
    return sampling.draw_tokens(logits.expand(n, -1), draws(n, len(logits), uniforms, **wishes)).tolist()


def kept(logits: Tensor, *, temperature: float, min_p: float, top_k: int | None, top_p: float) -> tuple[Any, Any]:
    """Tokens in the order in which they are drawn, and their probabilities, in float64."""
    scores = ((logits - logits.max()) / temperature).numpy()
    weights = np.where(scores < (np.float32(np.log(min_p)) if min_p else -INF), 0.0, np.exp(scores.astype(np.float64)))
    order = np.arange(len(logits))
    if top_k is not None or top_p < 1:
        order = np.lexsort((order, -scores))[:top_k]
        held = np.cumsum(weights[order])
        order = order[: int(np.searchsorted(held, top_p * held[-1] * (1 - 1e-12))) + 1]
    return order, weights[order] / weights[order].sum()


WISHES: list[dict[str, Any]] = [
    dict(temperature=1.0, min_p=0.0, top_k=None, top_p=1.0),
    dict(temperature=0.7, min_p=0.05, top_k=None, top_p=1.0),
    dict(temperature=1.5, min_p=0.0, top_k=40, top_p=1.0),
    dict(temperature=1.0, min_p=0.0, top_k=None, top_p=0.9),
    dict(temperature=0.3, min_p=0.0, top_k=None, top_p=0.5),
    dict(temperature=1.0, min_p=0.01, top_k=1500, top_p=0.95),
    dict(temperature=30.0, min_p=0.0, top_k=None, top_p=0.8),
    dict(temperature=1.0, min_p=0.2, top_k=7, top_p=0.99),
    dict(temperature=1.0, min_p=0.0, top_k=1, top_p=1.0),
]


@pytest.mark.parametrize("wishes", WISHES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_tokens_are_drawn_by_their_probability(sampling: NativeSampling, size: int, wishes: dict[str, Any]) -> None:
    """Just inside each token's part of [0, 1) that token is drawn: so the parts, and what is kept, are right."""
    logits = normal(size, seed=size)
    order, probabilities = kept(logits, **wishes)
    ends = np.cumsum(probabilities)
    starts = ends - probabilities
    wide = probabilities > 1e-5
    margin = 4e-6  # float32 exponentials
    for at in (starts + margin, ends - margin):
        assert drawn(sampling, logits, at[wide].clip(0, ALMOST_ONE), **wishes) == order[wide].tolist()
    last = drawn(sampling, logits, [0.0, ALMOST_ONE], **wishes)
    assert set(last) <= set(order.tolist())


@pytest.mark.parametrize("count", [1, 7, 300, 1024, 1025, 4000])
def test_among_equals_the_lowest_ids_are_kept(sampling: NativeSampling, count: int) -> None:
    """Some tokens as likely as each other, the rest impossible: masses are exact, and so is every border."""
    size = 5000
    chosen = np.sort(np.random.default_rng(count).permutation(size)[:count])
    logits = torch.full((size,), -INF)
    logits[torch.from_numpy(chosen)] = 2.5
    uniforms = np.array([0.0, 0.125, 0.5, 0.703125, ALMOST_ONE])
    for top_k in (None, 1, 2, 33, 1025, 3000):
        for top_p in (0.0625, 0.3, 0.5, 1.0):
            within = min(top_k or size, count)
            num_kept = int(np.ceil(top_p * within))
            tokens = drawn(sampling, logits, uniforms, top_k=top_k, top_p=top_p)
            assert tokens == chosen[(uniforms * num_kept).astype(int)].tolist(), (top_k, top_p)


@pytest.mark.parametrize("top_k", [None, 2, 300, 1025, 3000])
@pytest.mark.parametrize("values", [3, 50, 100_000])
def test_the_order_is_by_score_then_id(sampling: NativeSampling, values: int, top_k: int | None) -> None:
    """Thousands of tokens of nearly one probability, many of them equal: no token is more than one place off."""
    size = 5000
    logits = torch.from_numpy(np.random.default_rng(values).integers(0, values, size).astype(np.float32) / values / 8)
    ranks = np.empty(size, np.int64)
    ranks[np.lexsort((np.arange(size), -logits.numpy()))] = np.arange(size)
    uniforms = np.linspace(0.0005, ALMOST_ONE, 23)
    for top_p in (0.05, 0.5, 0.999):
        _, probabilities = kept(logits, temperature=1.0, min_p=0.0, top_k=top_k, top_p=top_p)
        places = np.searchsorted(np.cumsum(probabilities), uniforms, side="right").clip(max=len(probabilities) - 1)
        tokens = drawn(sampling, logits, uniforms, top_k=top_k, top_p=top_p)
        assert np.abs(ranks[tokens] - places).max() <= 1


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("size", SIZES)
def test_rows_that_are_not_sound(sampling: NativeSampling, size: int, temperature: float) -> None:
    for place in {0, size // 2, size - 1}:
        logits = normal(5, size)
        logits[0, place] = NAN
        logits[1, place] = INF
        logits[2] = -INF
        logits[3] = -INF
        logits[3, place] = -1e30
        wishes = draws(5, size, 0.5, temperature=temperature)
        assert sampling.draw_tokens(logits, wishes)[:4].tolist() == [-1, -1, -1, place]
        assert sampling.draw_tokens(logits, wishes)[4] == TorchSampling().draw_tokens(logits, wishes)[4]
        cut = draws(5, size, 0.5, temperature=temperature, top_p=0.9, top_k=3)
        assert sampling.draw_tokens(logits, cut)[:4].tolist() == [-1, -1, -1, place]


@pytest.mark.parametrize("size", SIZES)
def test_greedy_takes_the_first_of_equals(sampling: NativeSampling, size: int) -> None:
    logits = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (9, size)).astype(np.float32))
    logits[0, :] = 0.0
    logits[0, size // 2] = -0.0
    assert sampling.draw_tokens(logits, draws(9, size, 0.9, temperature=0.0)).tolist() == logits.argmax(1).tolist()


def test_extreme_logits_and_temperatures(sampling: NativeSampling) -> None:
    logits = torch.tensor([3e38, -3e38, 2.9e38, -INF])
    for wishes in (dict(), dict(top_k=2), dict(top_p=0.7)):
        assert set(drawn(sampling, logits, [0.0, 0.5, ALMOST_ONE], temperature=1e-5, **wishes)) == {0}
    assert drawn(sampling, torch.zeros(4), [0.0, 0.24, 0.5, 0.76, ALMOST_ONE], temperature=1e5) == [0, 0, 2, 3, 3]
    assert drawn(sampling, torch.zeros(3000), [ALMOST_ONE], top_p=1e-300) == [0]


MIXED = [
    dict(temperature=0.0),
    dict(temperature=1.0),
    dict(temperature=0.8, top_k=50, top_p=0.9),
    dict(temperature=1.0, top_p=0.95),
    dict(temperature=3.0, top_p=0.95),
    dict(temperature=1.0, min_p=0.1),
    dict(temperature=2.0, top_k=2000),
]


@pytest.mark.parametrize("size", [41, 49157, 100_003])
def test_a_row_is_the_same_bits_in_any_company(level: Library, size: int) -> None:
    """One row, or fewer than threads, or many; on one thread or more."""
    logits = normal(len(MIXED), size, seed=3)
    one = [draws(1, size, 0.1 + 0.1 * i, **wishes) for i, wishes in enumerate(MIXED)]
    names = Draws.__slots__
    together = Draws(*(np.concatenate([getattr(each, name) for each in one]) for name in names))
    rows, targets = np.arange(len(MIXED)), np.full((len(MIXED), 1), 5)
    expected: tuple[np.ndarray, Scores] | None = None
    for num_threads in (1, 2, 3):
        sampling = NativeSampling(level, Pool(level, num_threads))
        tokens, scores = sampling.draw_tokens(logits, together), sampling.score_tokens(logits, rows, targets, 9)
        if expected is None:
            expected = tokens, scores
        assert tokens.tolist() == expected[0].tolist()
        assert scores.logprobs.tobytes() == expected[1].logprobs.tobytes()
        assert scores.token_ids.tolist() == expected[1].token_ids.tolist()
        for i, wishes in enumerate(one):
            assert sampling.draw_tokens(logits[i : i + 1], wishes)[0] == tokens[i]
            alone = sampling.score_tokens(logits, rows[i : i + 1], targets[i : i + 1], 9)
            assert alone.logprobs.tobytes() == scores.logprobs[i].tobytes()
            assert alone.ranks[0] == scores.ranks[i]
        two = sampling.draw_tokens(logits[2:4], Draws(*(getattr(together, name)[2:4] for name in names)))
        assert two.tolist() == tokens[2:4].tolist()


@pytest.mark.parametrize("k", [0, 1, 5, 64, 1500])
@pytest.mark.parametrize("size", SIZES)
def test_scores_are_the_log_probabilities(sampling: NativeSampling, size: int, k: int) -> None:
    k = min(k, size)
    logits = torch.cat((normal(4, size, seed=k), (4 * normal(2, size)).round() / 4))
    logits[3, : size // 3] = -INF
    rows = np.array([5, 0, 3, 3])
    tokens = np.array([[0, size // 2], [size - 1, 0], [size // 2, size // 2], [0, size - 1]])
    scores = sampling.score_tokens(logits, rows, tokens, k)
    exact = torch.log_softmax(logits[torch.from_numpy(rows)].double(), 1).numpy()
    for i in range(len(rows)):
        ids = scores.token_ids[i]
        assert ids[:2].tolist() == tokens[i].tolist() and ids.dtype == np.int32
        np.testing.assert_allclose(scores.logprobs[i], exact[i, ids], rtol=1e-6, atol=1e-6)
        for token, rank in zip(tokens[i], scores.ranks[i], strict=True):
            assert 1 + (exact[i] > exact[i, token] + 1e-6).sum() <= rank <= 1 + (exact[i] > exact[i, token]).sum()
        order = list(zip(-scores.logprobs[i, 2:], ids[2:].tolist(), strict=True))
        assert order == sorted(order)
        assert not k or scores.logprobs[i, 1 + k] >= np.float32(np.sort(exact[i])[-k]) - 1e-5


def test_nothing_is_written_but_the_results(sampling: NativeSampling) -> None:
    logits = normal(3, 100)
    before = logits.clone()
    sampling.draw_tokens(logits, draws(3, 100, 0.5, top_p=0.5))
    sampling.score_tokens(logits, np.arange(3), np.zeros((3, 1), np.int32), 5)
    assert torch.equal(logits, before)
    assert sampling.draw_tokens(logits[:0], draws(0, 100, [])).shape == (0,)
    assert sampling.score_tokens(logits, np.arange(0), np.empty((0, 1)), 5).token_ids.shape == (0, 6)


def test_strided_rows_are_taken_as_they_are(sampling: NativeSampling) -> None:
    wide = normal(4, 200)
    wishes = draws(4, 150, 0.5, top_p=0.9)
    assert sampling.draw_tokens(wide[:, :150], wishes).tolist() == sampling.draw_tokens(
        wide[:, :150].contiguous(), wishes
    ).tolist()  # fmt: skip


@pytest.mark.parametrize("rows", [[], [2], [0, 3, 4, 8], list(range(9))], ids=str)
def test_some_rows_draw_what_they_draw_among_all(sampling: NativeSampling, rows: list[int]) -> None:
    logits, wishes = normal(9, 3000), draws(9, 3000, 0.5, top_p=0.9)
    some = Draws(*(getattr(wishes, name)[rows] for name in Draws.__slots__))
    found = sampling.draw_tokens(logits, some, np.array(rows, np.int64))
    assert found.tolist() == sampling.draw_tokens(logits, wishes)[rows].tolist()


@pytest.mark.parametrize("size", [*SIZES, 31, 32, 33, 49157])
def test_what_is_allowed_is_the_references(level: Library, size: int) -> None:
    """Whatever the width of masks and rows, how many there are, and on how many threads."""
    rng = np.random.default_rng(size)
    num_words = -(-size // 32) + 3
    masks = rng.integers(-(2**31), 2**31, (6, num_words), np.int64).astype(np.int32)[:, :-1]
    masks[1], masks[2] = 0, -1
    wide = normal(9, size + 7, seed=size)
    wide[3, size // 2], wide[4, size - 1], wide[6, 0], wide[8, :size] = NAN, INF, -INF, -INF
    for rows in (np.array([0, 2, 3, 4, 6, 8]), np.array([5]), np.arange(0)):
        expected = wide.clone()
        sound = TorchSampling().keep_allowed(expected[:, :size], rows, masks[: len(rows)])
        for num_threads in (1, 2, 3):
            logits = wide.clone()
            sampling = NativeSampling(level, Pool(level, num_threads))
            found = sampling.keep_allowed(logits[:, :size], rows, masks[: len(rows)])
            assert found.tolist() == sound.tolist() and found.dtype == bool
            assert logits.numpy().tobytes() == expected.numpy().tobytes()


def test_rows_that_were_not_sound_are_told_apart(sampling: NativeSampling) -> None:
    """By what they held before: a mask may cover the NaN, or leave nothing."""
    for size in SIZES:
        for place in {0, size // 2, size - 1}:
            logits = normal(6, size)
            logits[0, place], logits[1, place], logits[2], logits[3], logits[3, place] = NAN, INF, -INF, -INF, -1e30
            masks = np.zeros((6, -(-size // 32)), np.int32)
            masks[5] = -1
            before = logits[5].clone()
            found = sampling.keep_allowed(logits, np.arange(6), masks)
            assert found.tolist() == [False, False, False, True, True, True]
            assert bool((logits[:5] == -INF).all()) and torch.equal(logits[5], before)
