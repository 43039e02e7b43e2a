"""Log probabilities: order, ranks, equal floats, independence of the batch."""

import numpy as np
import pytest
import torch

from quire.decoding import logprobs as module
from quire.decoding.logprobs import prompt_logprobs, top_logprobs


def noise(n: int, vocab_size: int, seed: int = 0) -> torch.Tensor:
    values = np.random.default_rng(seed).normal(0, 4, (n, vocab_size)).astype(np.float32)
    return torch.from_numpy(values)


def test_entries_are_right_and_in_order() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0, 0.0]])
    exact = torch.log_softmax(logits.double(), 1)[0]
    (entry,) = prompt_logprobs(logits, np.array([2]), 3)
    assert entry.token_ids.tolist() == [2, 1, 3, 2]
    assert entry.rank == 3
    np.testing.assert_allclose(entry.logprobs, exact[[2, 1, 3, 2]], rtol=1e-6)
    assert entry.token_ids.dtype == np.int32 and entry.logprobs.dtype == np.float32
    assert entry.logprobs[0] == entry.logprobs[3]


@pytest.mark.parametrize(("token", "rank"), [(1, 1), (3, 1), (2, 3), (0, 4), (4, 5)])
def test_rank_counts_strictly_likelier_tokens(token: int, rank: int) -> None:
    logprobs = torch.log_softmax(torch.tensor([[1.0, 3.0, 2.0, 3.0, 0.0]]), 1)
    assert top_logprobs(logprobs, np.array([token]), 0)[0].rank == rank


def test_zero_shows_the_chosen_and_minus_one_everything() -> None:
    logits = noise(4, 33)
    targets = np.array([5, 0, 32, 7])
    for row, entry in enumerate(prompt_logprobs(logits, targets, 0)):
        assert entry.token_ids.tolist() == [targets[row]]
    for row, entry in enumerate(prompt_logprobs(logits, targets, -1)):
        assert sorted(entry.token_ids[1:].tolist()) == list(range(33))
        assert (np.diff(entry.logprobs[1:]) <= 0).all()
        assert entry.token_ids[entry.rank] == targets[row]
        assert entry.logprobs[entry.rank] == entry.logprobs[0]
    assert len(prompt_logprobs(logits, targets, 500)[0].token_ids) == 34


@pytest.mark.parametrize("vocab_size", [7, 1023, 49152])
def test_a_row_is_the_same_alone_and_in_any_batch(vocab_size: int) -> None:
    logits = noise(33, vocab_size)
    together = torch.log_softmax(logits, 1)
    for n in (1, 2, 5, 32):
        assert torch.equal(torch.log_softmax(logits[1 : 1 + n].clone(), 1), together[1 : 1 + n])


def test_long_prompts_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = noise(10, 50), np.arange(10)
    before = logits.clone()
    whole = prompt_logprobs(logits, targets, 4)
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 150)
    pieces = prompt_logprobs(logits, targets, 4)
    assert len(pieces) == 10
    for one, other in zip(whole, pieces, strict=True):
        assert one.rank == other.rank
        assert one.token_ids.tolist() == other.token_ids.tolist()
        assert one.logprobs.tobytes() == other.logprobs.tobytes()
    assert torch.equal(logits, before)


def test_impossible_tokens_have_minus_infinity() -> None:
    (entry,) = prompt_logprobs(torch.tensor([[0.0, -torch.inf, 0.0]]), np.array([1]), -1)
    assert entry.token_ids.tolist() == [1, 0, 2, 1] and entry.rank == 3
    assert np.isneginf(entry.logprobs[[0, 3]]).all()


def test_no_rows_no_entries() -> None:
    assert prompt_logprobs(torch.empty(0, 5), np.empty(0, np.int32), 3) == []
