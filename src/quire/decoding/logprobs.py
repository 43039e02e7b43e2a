"""Log probabilities for those who asked: of the raw logits, before anything a request asks for is applied to them.

Law: the chosen token's value is the same float wherever it appears. Equal values are listed lowest id first.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from quire.core.step import TopLogprobs
from quire.kernels.ops.sampling import Sampling

WHOLE_VOCABULARY = -1


def top_logprobs(sampling: Sampling, logits: Tensor, rows: np.ndarray, chosen: np.ndarray, k: int) -> list[TopLogprobs]:
    """One entry for each of ``rows`` [n]: the token ``chosen`` [n], then the k likeliest (0: none; -1: all), its rank.

    ``logits`` [R, V] float32. The rank is 1 + the number of strictly likelier tokens. A row with NaN gives NaN.
    """
    vocab_size = logits.shape[1]
    scores = sampling.score_tokens(logits, rows, chosen, vocab_size if k == WHOLE_VOCABULARY else min(k, vocab_size))
    entries = zip(scores.token_ids, scores.logprobs, scores.ranks.tolist(), strict=True)
    return [TopLogprobs(token_ids, floats, rank) for token_ids, floats, rank in entries]


def with_named(
    sampling: Sampling,
    logits: Tensor,
    rows: np.ndarray,
    entries: Sequence[TopLogprobs],
    named: Sequence[Sequence[int]],
) -> list[TopLogprobs]:
    """``entries`` [n] of ``rows`` [n], rising, each with the tokens that are ``named`` [n] for it."""
    scores: list[list[tuple[float, int]]] = [[] for _ in entries]
    for place in range(max(map(len, named))):
        some = [i for i, ids in enumerate(named) if place < len(ids)]
        found = sampling.score_tokens(logits, rows[some], np.array([named[i][place] for i in some], np.int32), 0)
        for i, logprob, rank in zip(some, found.logprobs[:, 0].tolist(), found.ranks.tolist(), strict=True):
            scores[i].append((logprob, rank))
    return [
        TopLogprobs(
            np.concatenate((entry.token_ids, np.array(ids, np.int32))),
            np.concatenate((entry.logprobs, np.array([logprob for logprob, _ in own], np.float32))),
            entry.rank,
            tuple(rank for _, rank in own),
        )
        for entry, ids, own in zip(entries, named, scores, strict=True)
    ]
