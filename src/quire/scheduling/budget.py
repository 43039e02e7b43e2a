"""How a step's token budget is handed out.

Law: every sequence gets a token, and what remains goes to those that lack more, from the most senior on. So decodes
never wait for prompts, and no prompt ever stands still. Never more sequences run than the budget has tokens.
"""

import numpy as np


def share_budget(pending: np.ndarray, budget: int, max_chunk: int) -> np.ndarray:
    """Tokens for each sequence, [S] int32, from 1 to ``max_chunk`` each and ``budget`` in all.

    ``pending`` [S] int32 are the tokens each has yet to compute, each >= 1, the most senior sequence first.
    """
    wanted = np.minimum(pending, max_chunk) - 1
    before = np.cumsum(wanted) - wanted
    counts: np.ndarray = 1 + np.clip(budget - pending.size - before, 0, wanted)
    return counts.astype(np.int32)
