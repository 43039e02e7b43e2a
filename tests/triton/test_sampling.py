"""Sampling in Triton: the reference's tokens and scores, however a row's tail is cut and whoever is beside it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from quire.kernels.ops.sampling import Draws, TorchSampling
from quire.kernels.triton import sampling as module
from quire.kernels.triton.sampling import TritonSampling, device_draws

INF, NAN = float("inf"), float("nan")
ALMOST_ONE = 1 - 2.0**-53
SIZES = (1, 41, 4099)


def normal(*shape: int, seed: int = 0, scale: float = 2.5) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draws(size: int, wishes: list[dict[str, Any]], uniforms: Any) -> Draws:
    def column(name: str, default: float, dtype: Any) -> np.ndarray:
        return np.array([wish.get(name, default) for wish in wishes], dtype)

    with np.errstate(divide="ignore"):
        log_min_p = np.log(column("min_p", 0.0, np.float64)).astype(np.float32)
    return Draws(
        column("temperature", 1.0, np.float32),
        log_min_p,
        np.minimum(column("top_k", size, np.int64), size),
        column("top_p", 1.0, np.float64),
        np.broadcast_to(np.asarray(uniforms, np.float64), len(wishes)),
    )


WISHES: list[dict[str, Any]] = [
    dict(temperature=0.0),
    dict(),
    dict(temperature=0.7, min_p=0.05),
    dict(temperature=1.5, top_k=40),
    dict(top_p=0.9),
    dict(temperature=0.3, top_p=0.5),
    dict(min_p=0.01, top_k=1500, top_p=0.95),
    dict(temperature=30.0, top_p=0.8),
    dict(min_p=0.2, top_k=7, top_p=0.99),
    dict(top_k=1),
    dict(temperature=2.0, top_k=3000),
]


@pytest.mark.parametrize("size", SIZES)
def test_equals_the_reference(size: int) -> None:
    """Every wish, with numbers all over [0, 1): also among equals, and where half the tokens are impossible."""
    logits = normal(3, size, seed=size)
    logits[1] = (logits[1] * 2).round() / 2
    logits[2, ::2] = -INF
    logits[2, -1] = 0.5
    uniforms = np.array([0.0, 0.31, 0.5, 0.77, 0.95, ALMOST_ONE])
    rows = [row for row in range(3) for _ in WISHES]
    asked = draws(size, 3 * WISHES, np.resize(uniforms, len(rows)))
    batch = logits[rows]
    expected = TorchSampling().draw_tokens(batch.clone(), asked)
    assert TritonSampling().draw_tokens(batch, asked).tolist() == expected.tolist()


def test_a_free_token_is_taken_where_it_is_kept() -> None:
    size = 700
    logits = normal(3, size, seed=1)
    logits[1] = (logits[1] * 2).round() / 2
    rows = [row for row in range(3) for _ in WISHES]
    asked = draws(size, 3 * WISHES, np.linspace(0, 0.99, len(rows)))
    batch = logits[rows]
    ranked = batch.argsort(dim=1, descending=True)
    for place in (0, 2, 9, 60, size - 1):
        free = ranked[:, place].numpy().astype(np.int32)
        free[::7] = -1
        found = TritonSampling().draw_tokens(batch, asked, free=free)
        assert found.tolist() == TorchSampling().draw_tokens(batch.clone(), asked, free=free).tolist()
        assert 0 < (found == free).sum() < len(rows)


@pytest.mark.parametrize("count", (1, 300, 2100))
def test_among_equals_the_lowest_ids_are_kept(count: int) -> None:
    """Some tokens as likely as each other, the rest impossible: masses are exact, and so is every border."""
    size = 4200
    chosen = np.sort(np.random.default_rng(count).permutation(size)[:count])
    logits = torch.full((size,), -INF)
    logits[torch.from_numpy(chosen)] = 2.5
    uniforms = np.array([0.0, 0.703125, ALMOST_ONE])
    for top_k in (size, 33):
        for top_p in (0.3, 1.0):
            num_kept = int(np.ceil(top_p * min(top_k, count)))
            asked = draws(size, [dict(top_k=top_k, top_p=top_p)] * len(uniforms), uniforms)
            tokens = TritonSampling().draw_tokens(logits.expand(len(uniforms), -1), asked)
            assert tokens.tolist() == chosen[(uniforms * num_kept).astype(int)].tolist(), (top_k, top_p)


def test_what_is_searched_is_what_would_be_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 300
    cut = [wish for wish in WISHES if "top_k" in wish or "top_p" in wish]
    logits = normal(len(cut), size, seed=5)
    logits[::2] = (logits[::2] * 2).round() / 2
    asked = draws(size, cut, 0.9)
    expected = TritonSampling().draw_tokens(logits, asked)
    monkeypatch.setattr(module, "CANDIDATES", 2)
    assert TritonSampling().draw_tokens(logits, asked).tolist() == expected.tolist()


def test_a_row_is_the_same_in_any_company() -> None:
    size = 5003
    logits = normal(len(WISHES), size, seed=3)
    asked = draws(size, WISHES, np.linspace(0.05, 0.95, len(WISHES)))
    tokens = TritonSampling().draw_tokens(logits, asked)
    rows, targets = np.arange(len(WISHES)), np.full((len(WISHES), 1), 5)
    scores = TritonSampling().score_tokens(logits, rows, targets, 3)
    wide = torch.full((len(WISHES), size + 3), 9.0)
    wide[:, :size] = logits
    assert TritonSampling().draw_tokens(wide[:, :size], asked).tolist() == tokens.tolist()
    for row in (0, 1, 6, 7):  # of which the first is greedy
        one = Draws(*(getattr(asked, name)[row : row + 1] for name in Draws.__slots__))
        assert TritonSampling().draw_tokens(logits[row : row + 1], one)[0] == tokens[row]
        assert TritonSampling().draw_tokens(logits, one, rows[row : row + 1])[0] == tokens[row]
        alone = TritonSampling().score_tokens(logits, rows[row : row + 1], targets[:1], 3)
        assert alone.logprobs.tobytes() == scores.logprobs[row : row + 1].tobytes()
        assert alone.ranks[0] == scores.ranks[row]


@pytest.mark.parametrize("wish", (dict(temperature=0.0), dict(temperature=0.8), dict(top_p=0.9, top_k=3)), ids=str)
def test_rows_that_are_not_sound(wish: dict[str, Any]) -> None:
    for size in (1, 4099):
        for place in {0, size - 1}:
            logits = normal(5, size)
            for row, bad in enumerate((NAN, -NAN, INF)):
                logits[row, place] = bad
            logits[3] = -INF
            logits[4] = -INF
            logits[4, place] = -1e30
            tokens = TritonSampling().draw_tokens(logits, draws(size, [wish] * 5, 0.5))
            assert tokens.tolist() == [-1, -1, -1, -1, place]


def test_extreme_logits_and_temperatures() -> None:
    def drawn(logits: Tensor, uniforms: list[float], **wish: Any) -> list[int]:
        asked = draws(len(logits), [wish] * len(uniforms), uniforms)
        return TritonSampling().draw_tokens(logits.expand(len(uniforms), -1), asked).tolist()

    logits = torch.tensor([3e38, -3e38, 2.9e38, -INF])
    for wish in (dict(), dict(top_k=2), dict(top_p=0.7)):
        assert set(drawn(logits, [0.0, 0.5, ALMOST_ONE], temperature=1e-5, **wish)) == {0}
    assert drawn(torch.zeros(4), [0.0, 0.24, 0.5, 0.76, ALMOST_ONE], temperature=1e5) == [0, 0, 2, 3, 3]
    assert drawn(torch.zeros(3000), [ALMOST_ONE], top_p=1e-300) == [0]


def test_flags_only_leave_out_what_is_not_asked() -> None:
    size = 300
    logits = normal(2, size)
    whole, greedy = draws(size, [dict(), dict(min_p=0.1)], 0.4), draws(size, [dict(temperature=0.0)] * 2, 0.4)
    device = torch.device("cpu")
    every = device_draws(whole, device)
    quick = replace(every, has_cut=False)
    assert torch.equal(TritonSampling().draw(logits, quick), TritonSampling().draw(logits, every))
    assert not device_draws(greedy, device).has_random
    assert TritonSampling().draw_tokens(logits, greedy).tolist() == logits.argmax(1).tolist()
    assert TritonSampling().draw_tokens(logits[:0], draws(size, [], [])).shape == (0,)


@pytest.mark.parametrize("k", (0, 20, 1000))
@pytest.mark.parametrize("size", SIZES)
def test_scores_are_the_log_probabilities(size: int, k: int) -> None:
    k = min(k, size)
    logits = torch.cat((normal(4, size, seed=k), (4 * normal(2, size)).round() / 4))
    logits[3, : size // 3] = -INF
    rows = np.array([5, 0, 3, 3])
    tokens = np.array([[0, size // 2], [size - 1, 0], [size // 2, size // 2], [0, size - 1]])
    before = logits.clone()
    scores = TritonSampling().score_tokens(logits, rows, tokens, k)
    assert torch.equal(logits, before)
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


def test_scores_of_a_row_with_nan_are_nan() -> None:
    logits = normal(2, 50)
    logits[0, 7] = NAN
    scores = TritonSampling().score_tokens(logits, np.arange(2), np.array([[3], [3]]), 4)
    assert np.isnan(scores.logprobs[0]).all() and not np.isnan(scores.logprobs[1]).any()
    assert TritonSampling().score_tokens(logits, np.arange(0), np.empty((0, 1)), 4).token_ids.shape == (0, 5)


@pytest.mark.parametrize("size", (31, 1500))
def test_what_a_mask_does_not_allow_is_impossible(size: int) -> None:
    masks = np.random.default_rng(0).integers(-(2**31), 2**31, (2, size // 32 + 2), dtype=np.int64).astype(np.int32)
    mine = normal(4, size)
    theirs = mine.clone()
    rows = np.array([1, 3])
    mine[1, 3] = theirs[1, 3] = NAN
    sound = TritonSampling().keep_allowed(mine, rows, masks)
    assert sound.tolist() == TorchSampling().keep_allowed(theirs, rows, masks).tolist() == [False, True]
    assert torch.equal(mine.nan_to_num(9.0), theirs.nan_to_num(9.0))
