"""How a step's token budget is handed out.

Law: every sequence gets a token, and what remains goes to those that lack more, from the most senior on. So decodes
never wait for prompts, and no prompt ever stands still. Never more sequences run than the budget has tokens.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Budget:
    """How many tokens a step may compute."""

    most: int
    most_beside_decodes: int
    """Prompt tokens in a step in which others decode: what they wait for between two tokens."""

    def tokens(self, num_decoding: int) -> int:
        """Of a step with so many sequences that decode."""
        return min(self.most, num_decoding + self.most_beside_decodes) if num_decoding else self.most


def share_budget(pending: np.ndarray, budget: int, max_chunk: int) -> np.ndarray:
    """Tokens for each sequence, [S] int64, from 1 to ``max_chunk`` each and ``budget`` in all.

    ``pending`` [S] int64 are the tokens each has yet to compute, each >= 1, the most senior sequence first.
    """
    wanted = np.minimum(pending, max_chunk) - 1
    before = np.cumsum(wanted) - wanted
    counts: np.ndarray = 1 + np.clip(budget - pending.size - before, 0, wanted)
    return counts
