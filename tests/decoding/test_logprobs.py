"""Log probabilities: order, ranks, equal floats, independence of the batch."""

import numpy as np
import pytest
import torch

from quire.core.step import TopLogprobs
from quire.decoding.logprobs import top_logprobs
from quire.kernels.ops import sampling as module
from quire.kernels.ops.sampling import Sampling, TorchSampling


def noise(n: int, vocab_size: int, seed: int = 0) -> torch.Tensor:
    values = np.random.default_rng(seed).normal(0, 4, (n, vocab_size)).astype(np.float32)
    return torch.from_numpy(values)


def entries(sampling: Sampling, logits: torch.Tensor, chosen: np.ndarray, k: int) -> list[TopLogprobs]:
    return top_logprobs(sampling, logits, np.arange(len(chosen)), chosen[:, None], k)


def test_entries_are_right_and_in_order(sampling: Sampling) -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0, 0.0]])
    exact = torch.log_softmax(logits.double(), 1)[0]
    (entry,) = entries(sampling, logits, np.array([2]), 3)
    assert entry.token_ids.tolist() == [2, 1, 3, 2]
    assert entry.ranks == (3,)
    np.testing.assert_allclose(entry.logprobs, exact[[2, 1, 3, 2]], rtol=1e-6)
    assert entry.token_ids.dtype == np.int32 and entry.logprobs.dtype == np.float32
    assert entry.logprobs[0] == entry.logprobs[3]


@pytest.mark.parametrize(("token", "rank"), [(1, 1), (3, 1), (2, 3), (0, 4), (4, 5)])
def test_rank_counts_strictly_likelier_tokens(sampling: Sampling, token: int, rank: int) -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0, 0.0]])
    assert entries(sampling, logits, np.array([token]), 0)[0].ranks == (rank,)


def test_zero_shows_the_chosen_and_minus_one_everything(sampling: Sampling) -> None:
    logits = noise(4, 33)
    targets = np.array([5, 0, 32, 7])
    for row, entry in enumerate(entries(sampling, logits, targets, 0)):
        assert entry.token_ids.tolist() == [targets[row]]
    for row, entry in enumerate(entries(sampling, logits, targets, -1)):
        assert sorted(entry.token_ids[1:].tolist()) == list(range(33))
        assert (np.diff(entry.logprobs[1:]) <= 0).all()
        assert entry.token_ids[entry.ranks[0]] == targets[row]
        assert entry.logprobs[entry.ranks[0]] == entry.logprobs[0]
    assert len(entries(sampling, logits, targets, 500)[0].token_ids) == 34


def test_named_tokens_have_the_floats_and_ranks_that_they_have_elsewhere(sampling: Sampling) -> None:
    logits, rows = noise(5, 33), np.array([0, 2, 4])
    given = np.array([[3, 7, 0], [9, 9, 32], [32, 5, 4]])
    everything = top_logprobs(sampling, logits, rows, given[:, :1], -1)
    for tokens, all_of, entry in zip(given, everything, top_logprobs(sampling, logits, rows, given, 2), strict=True):
        ranked = all_of.token_ids[1:].tolist()
        assert entry.token_ids.tolist() == [*tokens.tolist(), *ranked[:2]]
        assert entry.ranks == tuple(1 + ranked.index(token) for token in tokens.tolist())
        floats = dict(zip(ranked, all_of.logprobs[1:].tolist(), strict=True))
        assert entry.logprobs.tolist() == [floats[token] for token in entry.token_ids.tolist()]


@pytest.mark.parametrize("vocab_size", [7, 1023, 49152])
def test_a_row_is_the_same_alone_and_in_any_batch(sampling: Sampling, vocab_size: int) -> None:
    logits, chosen = noise(33, vocab_size), np.arange(33) % 7
    together = sampling.score_tokens(logits, np.arange(33), chosen[:, None], 5)
    for n in (1, 2, 5, 32):
        some = sampling.score_tokens(logits[1 : 1 + n].clone(), np.arange(n), chosen[1 : 1 + n, None], 5)
        assert some.token_ids.tobytes() == together.token_ids[1 : 1 + n].tobytes()
        assert some.logprobs.tobytes() == together.logprobs[1 : 1 + n].tobytes()
        assert some.ranks.tolist() == together.ranks[1 : 1 + n].tolist()


def test_long_prompts_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = noise(10, 50), np.arange(10)
    before = logits.clone()
    whole = entries(TorchSampling(), logits, targets, 4)
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 150)
    pieces = entries(TorchSampling(), logits, targets, 4)
    assert len(pieces) == 10
    for one, other in zip(whole, pieces, strict=True):
        assert one.ranks == other.ranks
        assert one.token_ids.tolist() == other.token_ids.tolist()
        assert one.logprobs.tobytes() == other.logprobs.tobytes()
    assert torch.equal(logits, before)


def test_impossible_tokens_have_minus_infinity(sampling: Sampling) -> None:
    (entry,) = entries(sampling, torch.tensor([[0.0, -torch.inf, 0.0]]), np.array([1]), -1)
    assert entry.token_ids.tolist() == [1, 0, 2, 1] and entry.ranks == (3,)
    assert np.isneginf(entry.logprobs[[0, 3]]).all()


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_sound_gives_nan(sampling: Sampling, poison: float) -> None:
    logits = noise(2, 40)
    logits[0, 3 if poison > 0 or poison != poison else slice(None)] = poison
    broken, sound = entries(sampling, logits, np.array([2, 2]), 3)
    assert np.isnan(broken.logprobs).all() and broken.ranks == (1,)
    assert np.isfinite(sound.logprobs).all()


def test_no_rows_no_entries(sampling: Sampling) -> None:
    assert entries(sampling, torch.empty(0, 5), np.empty(0, np.int32), 3) == []
