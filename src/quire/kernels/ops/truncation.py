"""Cutting the tail off a distribution: min_p, then top_k, then top_p.

Sources: top_p, Holtzman et al., "The Curious Case of Neural Text Degeneration" (ICLR 2020); min_p, Nguyen et al.,
"Turning Up the Heat" (ICLR 2025).

Law: what is kept is a beginning of the row's ranking (best first, lowest id among equals), never empty, and a longer
look at the ranking only confirms it. So few tokens are ranked first, and more only for rows that need them: a nucleus
is seldom wide, and sorting a whole vocabulary costs fifty times the rest of a step.
"""

import torch
from torch import Tensor

from quire.kernels.ops.choice import draw
from quire.kernels.ops.ranking import ranked

_NARROW = 256
_WIDE = 4096


def drop_improbable(scaled: Tensor, log_min_p: Tensor) -> None:
    """Mask, in place, tokens whose probability is under min_p times that of the likeliest.

    ``scaled`` [n, V] float32 with a greatest value of 0 in each row; ``log_min_p`` [n] float32, -inf where off.
    """
    scaled.masked_fill_(scaled < log_min_p[:, None], -torch.inf)


def draw_truncated(scaled: Tensor, mass: Tensor, top_k: Tensor, top_p: Tensor, uniform: Tensor) -> Tensor:
    """Draw from the smallest set that holds top_p of what the top_k likeliest tokens have together.

    ``scaled`` [n, V] float32 <= 0 gives the order, ``mass`` [n, V] int64 the probabilities; ``top_k`` [n] int64 in
    1..V, ``top_p`` [n] float64 in (0, 1], ``uniform`` [n] float64 in [0, 1). Returns token ids [n] int64.
    """
    vocab_size = mass.shape[1]
    totals = mass.sum(dim=1)
    chosen = torch.empty_like(top_k)
    pending = torch.arange(len(top_k), device=scaled.device)
    widest = int(top_k.max())
    for width in [width for width in (_NARROW, _WIDE) if width < widest] + [widest]:
        ids = ranked(scaled[pending], width)
        cumulative = mass[pending].gather(1, ids).cumsum(dim=1)
        num_kept = count_kept(cumulative, totals[pending], top_k[pending], top_p[pending], vocab_size)
        decided = (num_kept <= width).nonzero().squeeze(1)
        cumulative, rows = cumulative[decided], pending[decided]
        kept_mass = cumulative.gather(1, num_kept[decided, None] - 1).squeeze(1)
        places = draw(cumulative, kept_mass, uniform[rows])
        chosen[rows] = ids[decided].gather(1, places[:, None]).squeeze(1)
        pending = pending[num_kept > width]
        if not len(pending):
            break
    return chosen


def count_kept(cumulative: Tensor, total: Tensor, top_k: Tensor, top_p: Tensor, vocab_size: int) -> Tensor:
    """How many tokens of each ranking are kept, or a number beyond C where C ranked tokens do not tell.

    ``cumulative`` [n, C] int64, the mass of the 1, 2, ... C best; ``total`` [n] int64 that of the whole row. Returns
    [n] int64, at least 1.
    """
    width = cumulative.shape[1]
    within_k = cumulative.gather(1, (top_k - 1).clamp(max=width - 1)[:, None]).squeeze(1)
    is_whole = top_k == vocab_size
    wanted = top_p * torch.where(is_whole, total, within_k)
    num_kept = torch.minimum((cumulative < wanted[:, None]).sum(dim=1) + 1, top_k)
    return num_kept.masked_fill((top_k > width) & ~is_whole, width + 1)  # the mass that top_p is a share of is unknown
