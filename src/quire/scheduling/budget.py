"""How a step's token budget is handed out.

Law: every sequence that lacks one token gets it; what remains goes to the others from the most senior on. So decodes
never wait for prompts, and prompts go on as long as fewer sequences run than the budget has tokens.
"""

import numpy as np


def share_budget(pending: np.ndarray, budget: int, max_chunk: int) -> np.ndarray:
    """Tokens for each sequence, [S] int32, at most ``max_chunk`` each and ``budget`` in all; 0 for those that wait.

    ``pending`` [S] int32 are the tokens each has yet to compute, each >= 1, the most senior sequence first.
    """
    is_long = pending > 1
    budget -= pending.size - int(np.count_nonzero(is_long))
    wanted = np.where(is_long, np.minimum(pending, max_chunk), 0)
    before = np.cumsum(wanted) - wanted
    counts: np.ndarray = np.where(is_long, np.clip(budget - before, 0, wanted), 1).astype(np.int32)
    return counts
