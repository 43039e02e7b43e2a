"""Log probabilities for those who asked: of the raw logits, before anything a request asks for is applied to them.

Law: a token's value is the same float wherever it appears. Equal values are listed lowest id first.
"""

import numpy as np
from torch import Tensor

from quire.core.step import TopLogprobs
from quire.kernels.ops.sampling import Sampling

WHOLE_VOCABULARY = -1


def top_logprobs(sampling: Sampling, logits: Tensor, rows: np.ndarray, given: np.ndarray, k: int) -> list[TopLogprobs]:
    """One entry for each of ``rows`` [n]: the tokens ``given`` [n, g], their ranks, the k likeliest (0: none; -1: all).

    ``logits`` [R, V] float32. The rank is 1 + the number of strictly likelier tokens. A row with NaN gives NaN.
    """
    vocab_size = logits.shape[1]
    scores = sampling.score_tokens(logits, rows, given, vocab_size if k == WHOLE_VOCABULARY else min(k, vocab_size))
    entries = zip(scores.token_ids, scores.logprobs, scores.ranks.tolist(), strict=True)
    return [TopLogprobs(token_ids, floats, tuple(ranks)) for token_ids, floats, ranks in entries]
