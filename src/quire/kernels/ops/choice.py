"""Choosing one token a row from processed logits: the likeliest, or one drawn by inverse CDF.

Law: a row's choice depends on that row alone, bit for bit. Probabilities are therefore turned into integer *masses*,
of which a row has about 2**52 in all. Sums of integers do not depend on their order, so no batch size, thread count
or device can change a choice through the way a reduction is split. A token of probability under 2**-52 is never drawn.
"""

import numpy as np
import torch
from torch import Tensor

_TOTAL_MASS = 2.0**52
"""A row of float32 probabilities sums to 1 within 1e-5, so its masses stay below 2**53: exact in float64 too."""


def greedy(logits: Tensor) -> np.ndarray:
    """The likeliest token of each row, the lowest id among equals; -1 where a row holds NaN or +inf, or only -inf.

    ``logits`` [n, V] float32; returns [n] int32.
    """
    # argmax takes a NaN for the greatest value, so the value it finds tells whether the row is sound.
    if logits.device.type == "cpu":
        # numpy's argmax is vectorised: 3 us where torch's takes 42 us for 49152 logits on one core.
        array = logits.numpy()
        ids = array.argmax(axis=1)
        best = array[np.arange(len(ids)), ids]
    else:
        found = logits.argmax(dim=1, keepdim=True)
        best = logits.gather(1, found).squeeze(1).cpu().numpy()
        ids = found.squeeze(1).cpu().numpy()
    return np.where(np.isfinite(best), ids, -1).astype(np.int32)


def rescale(logits: Tensor, temperature: Tensor) -> Tensor:
    """Subtract each row's greatest logit and divide by the temperature, in place; returns which rows are not sound.

    ``logits`` [n, V] float32, ``temperature`` [n] float32 > 0. After it every logit is <= 0 and none is NaN, since
    subtracting first keeps small temperatures from overflowing, and unsound rows (NaN, +inf, or only -inf) are blanked.
    Returns [n] bool, True where the row was not sound.
    """
    best = logits.amax(dim=1, keepdim=True)
    broken = ~best.isfinite()
    if broken.any():
        logits.masked_fill_(broken, 0.0)
        best.masked_fill_(broken, 0.0)
    logits.sub_(best).div_(temperature[:, None])
    return broken.squeeze(1)


def masses(scaled: Tensor) -> Tensor:
    """Probabilities as integers. ``scaled`` [n, V] float32 logits; returns [n, V] int64."""
    return torch.softmax(scaled, dim=1).mul_(_TOTAL_MASS).to(torch.int64)


def draw(cumulative: Tensor, total: Tensor, uniform: Tensor) -> Tensor:
    """The first place of each row whose cumulative mass exceeds ``uniform * total``.

    ``cumulative`` [n, C] int64, not decreasing; ``total`` [n] int64, >= 1 and reached within the row; ``uniform`` [n]
    float64 in [0, 1). Returns [n] int64; a place without mass is never chosen.
    """
    target = (uniform * total).to(torch.int64)
    target = torch.minimum(target, total - 1)  # the product may have been rounded up to the total
    return torch.searchsorted(cumulative, target[:, None], right=True).squeeze(1)
