"""Log probabilities for those who asked: of the raw logits, before anything a request asks for is applied to them.

Law: float32, from log_softmax over one row at a time, and every number shown is read from that one tensor; the chosen
token's value is the same float wherever it appears. Equal values are listed lowest id first.
"""

import numpy as np
import torch
from torch import Tensor

from quire.core.step import TopLogprobs
from quire.decoding.ranking import ranked

WHOLE_VOCABULARY = -1

_CHUNK_ELEMENTS = 2**22
"""Rows of a long prompt are taken in pieces of this many logits, so that the extra memory stays under 64 MiB."""


def top_logprobs(logprobs: Tensor, chosen: np.ndarray, k: int) -> list[TopLogprobs]:
    """One entry a row: the chosen token, then the k likeliest (0: none; -1: all), and the chosen one's rank.

    ``logprobs`` [n, V] float32, ``chosen`` [n] token ids. The rank is 1 + the number of strictly likelier tokens.
    """
    picked = torch.as_tensor(chosen, dtype=torch.int64, device=logprobs.device)[:, None]
    own = logprobs.gather(1, picked)
    ranks = ((logprobs > own).sum(dim=1) + 1).tolist()
    ids, values = picked, own
    if k != 0:
        vocab_size = logprobs.shape[1]
        best = ranked(logprobs, vocab_size if k == WHOLE_VOCABULARY else min(k, vocab_size))
        ids = torch.cat((picked, best), dim=1)
        values = torch.cat((own, logprobs.gather(1, best)), dim=1)
    rows = zip(ids.to(torch.int32).cpu().numpy(), values.cpu().numpy(), ranks, strict=True)
    return [TopLogprobs(token_ids, floats, rank) for token_ids, floats, rank in rows]


@torch.inference_mode()
def prompt_logprobs(logits: Tensor, targets: np.ndarray, k: int) -> list[TopLogprobs]:
    """One entry a row of ``logits`` [n, V] float32, for the prompt token ``targets`` [n] that came after it.

    ``k`` as in ``top_logprobs``. The logits are not changed. A row with NaN gives NaN.
    """
    step = max(1, _CHUNK_ELEMENTS // logits.shape[1])
    entries: list[TopLogprobs] = []
    for start in range(0, len(logits), step):
        logprobs = torch.log_softmax(logits[start : start + step], dim=1)
        entries += top_logprobs(logprobs, targets[start : start + step], k)
    return entries
