"""Best first, and among equals the lowest id: the one order of tokens used in this room.

torch.topk promises nothing about equal values, and logits computed in bfloat16 are full of them. So value and id are
packed into one integer a token, unique within its row: whatever algorithm selects them, there is one right answer.
"""

import torch
from torch import Tensor

_SORT_FROM = 4
"""Above a quarter of the vocabulary a full sort is the cheaper way."""


def ranked(values: Tensor, k: int) -> Tensor:
    """Ids of the k greatest values of each row, in order.

    ``values`` [n, V] float32, every one <= 0 (log probabilities, or logits minus their greatest; -inf allowed) and not
    NaN; 1 <= k <= V. Returns [n, k] int64.
    """
    vocab_size = values.shape[1]
    # The bits of floats >= 0 are ordered as the floats are; |value| turns "greatest" into "smallest key".
    keys = values.abs().view(torch.int32).to(torch.int64).mul_(2**32)
    keys.add_(torch.arange(vocab_size, device=values.device))
    if k * _SORT_FROM > vocab_size:
        best = keys.sort(dim=1).values[:, :k]
    else:
        best = keys.topk(k, dim=1, largest=False, sorted=True).values
    return best & 0xFFFFFFFF
