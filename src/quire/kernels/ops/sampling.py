"""From rows of logits to one token each, and to log probabilities: the contract, and the reference in torch.

Laws. A row's token and log probabilities depend on that row alone, bit for bit. The logits are not changed. What is
kept of a row by min_p, top_k and top_p is the smallest beginning of its ranking (best first, lowest id among equals)
that holds top_p of what the top_k best have together.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from quire.kernels.ops.choice import draw, greedy, masses, rescale
from quire.kernels.ops.ranking import ranked
from quire.kernels.ops.truncation import draw_truncated, drop_improbable

NO_TOKEN, UNSURE = -1, -2
"""In the place of a token: there is none, or which one it is depends on what a guide forbids."""

_CHUNK_ELEMENTS = 2**22
"""Rows to be scored are taken in pieces of this many logits, so that the extra memory stays under 64 MiB."""


@dataclass(frozen=True, slots=True)
class Draws:
    """What each row wants of a draw, [n] each."""

    temperature: np.ndarray
    """float32; 0: the likeliest token, whatever the rest says."""
    log_min_p: np.ndarray
    """float32 <= 0, natural logarithm of min_p; -inf where it is off."""
    top_k: np.ndarray
    """int64 in 1..V; V where it is off."""
    top_p: np.ndarray
    """float64 in (0, 1]; 1 where it is off."""
    uniforms: np.ndarray
    """float64 in [0, 1)."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Log probabilities of n rows: of g given tokens, then of the k likeliest, best first."""

    token_ids: np.ndarray
    """[n, g + k] int32."""
    logprobs: np.ndarray
    """[n, g + k] float32; NaN in a row that is not sound."""
    ranks: np.ndarray
    """[n, g] int64: 1 + the number of tokens strictly likelier than the given one."""

    @classmethod
    def empty(cls, rows: np.ndarray, tokens: np.ndarray, k: int) -> "Scores":
        """To be filled with those of ``tokens`` [n, g] in ``rows`` [n]."""
        num_rows, given = tokens.shape
        assert rows.shape == (num_rows,)
        shape = num_rows, given + k
        return cls(np.empty(shape, np.int32), np.empty(shape, np.float32), np.empty(tokens.shape, np.int64))


class Sampling(Protocol):
    """What computes it. Lives on a worker."""

    def draw_tokens(
        self, logits: Tensor, draws: Draws, rows: np.ndarray | None = None, free: np.ndarray | None = None
    ) -> np.ndarray:
        """A token for each of ``rows`` [n], rising, of ``logits`` [R, V] float32, or for all of them.

        Returns [n] int32: NO_TOKEN for NaN, +inf, or nothing but -inf. Drawn is the first token, in the order of ids,
        or of the ranking where top_k or top_p is on, at which the probability summed so far exceeds the uniform
        number's part of all. ``free`` [n] int32: tokens that are taken where they are among what is kept of a row that
        draws; NO_TOKEN for none.
        """
        ...

    def score_tokens(self, logits: Tensor, rows: np.ndarray, tokens: np.ndarray, k: int) -> Scores:
        """Score ``tokens`` [n, g] in ``rows`` [n] of ``logits`` [R, V] float32, and list the k likeliest, 0 <= k <= V.

        Log probabilities are rounded to float32 before they are compared.
        """
        ...

    def keep_allowed(self, logits: Tensor, rows: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """Set to -inf, in place, what the masks do not allow: of ``rows`` [n], rising, of ``logits`` [R, V] float32.

        ``masks`` [n, W] int32, W * 32 >= V, each row contiguous: bit t % 32 of word t // 32 allows token t. Returns [n]
        bool: whether the row held no NaN, no +inf, and not only -inf before.
        """
        ...


class TorchSampling:
    """The reference, on any device."""

    def draw_tokens(
        self, logits: Tensor, draws: Draws, rows: np.ndarray | None = None, free: np.ndarray | None = None
    ) -> np.ndarray:
        """See Sampling.draw_tokens."""
        if rows is not None:
            logits = some_rows(logits, rows)
        if free is not None:
            return keep_free(self, logits, draws, free)
        token_ids = np.empty(len(logits), np.int32)
        is_greedy = draws.temperature == 0
        sure, random = np.flatnonzero(is_greedy), np.flatnonzero(~is_greedy)
        if sure.size:
            token_ids[sure] = greedy(some_rows(logits, sure))
        if random.size:
            token_ids[random] = _draw(logits[torch.as_tensor(random, device=logits.device)], draws, random)
        return token_ids

    def score_tokens(self, logits: Tensor, rows: np.ndarray, tokens: np.ndarray, k: int) -> Scores:
        """See Sampling.score_tokens."""
        scores = Scores.empty(rows, tokens, k)
        step = max(1, _CHUNK_ELEMENTS // logits.shape[1])
        for start in range(0, len(rows), step):
            piece = slice(start, start + step)
            logprobs = torch.log_softmax(some_rows(logits, rows[piece]), dim=1)
            ids = torch.as_tensor(tokens[piece], dtype=torch.int64, device=logits.device)
            given = logprobs.gather(1, ids).unbind(1)
            if k:
                ids = torch.cat((ids, ranked(logprobs, k)), dim=1)
            scores.token_ids[piece] = ids.cpu().numpy()
            scores.logprobs[piece] = logprobs.gather(1, ids).cpu().numpy()
            ranks = [(logprobs > own[:, None]).sum(dim=1) + 1 for own in given]
            scores.ranks[piece] = torch.stack(ranks, 1).cpu().numpy()
        return scores

    def keep_allowed(self, logits: Tensor, rows: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """See Sampling.keep_allowed."""
        words = np.ascontiguousarray(masks).view(np.uint8)
        allowed = np.unpackbits(words, axis=1, bitorder="little", count=logits.shape[1])
        forbidden = torch.from_numpy(allowed).to(logits.device) == 0
        sound = is_sound(logits, rows)
        for row, where in zip(rows.tolist(), forbidden, strict=True):
            logits[row].masked_fill_(where, -torch.inf)
        return sound


def by_temperature_alone(draws: Draws, vocab_size: int) -> Draws:
    """The same, keeping all tokens."""
    count = len(draws.temperature)
    return replace(
        draws,
        log_min_p=np.full(count, -np.inf, np.float32),
        top_k=np.full(count, vocab_size, np.int64),
        top_p=np.ones(count, np.float64),
    )


def keep_free(sampling: Sampling, logits: Tensor, draws: Draws, free: np.ndarray) -> np.ndarray:
    """``draw_tokens`` of all rows with ``free`` [n], by ``draw_tokens`` without: what is kept ends where the greatest
    number would draw, in the order of the ranking."""
    token_ids = sampling.draw_tokens(logits, draws)
    rows = np.flatnonzero((free >= 0) & (token_ids >= 0) & (draws.temperature > 0))
    if not rows.size:
        return token_ids
    below_one = np.nextafter(1.0, 0.0)
    last = sampling.draw_tokens(
        logits,
        Draws(
            temperature=draws.temperature[rows],
            log_min_p=draws.log_min_p[rows],
            top_k=draws.top_k[rows],
            top_p=np.minimum(draws.top_p[rows], below_one),
            uniforms=np.full(len(rows), below_one),
        ),
        rows,
    )
    tokens = free[rows]
    where = torch.as_tensor(np.stack((np.stack((rows, rows)), np.stack((tokens, last))), 0), device=logits.device)
    own, least = logits[where[0].long(), where[1].long()].cpu().numpy()
    is_kept = (own > least) | ((own == least) & (tokens <= last))
    token_ids[rows[is_kept]] = tokens[is_kept]
    return token_ids


def is_sound(logits: Tensor, rows: np.ndarray) -> np.ndarray:
    """Which of ``rows`` [n], rising, of ``logits`` [R, V] hold no NaN, no +inf, and not only -inf: [n] bool."""
    sound: np.ndarray = some_rows(logits, rows).amax(dim=1).isfinite().cpu().numpy()
    return sound


def _draw(logits: Tensor, draws: Draws, rows: np.ndarray) -> np.ndarray:
    """Draw for ``logits`` [n, V], which is overwritten, as ``rows`` [n] of ``draws`` say."""
    device = logits.device
    broken = rescale(logits, torch.as_tensor(draws.temperature[rows], device=device))
    log_min_p = draws.log_min_p[rows]
    if (log_min_p > -np.inf).any():
        drop_improbable(logits, torch.as_tensor(log_min_p, device=device))
    mass = masses(logits)
    uniform = torch.as_tensor(draws.uniforms[rows], device=device)
    top_k, top_p = draws.top_k[rows], draws.top_p[rows]

    tokens = torch.empty(len(rows), dtype=torch.int64, device=device)
    is_cut = (top_k < logits.shape[1]) | (top_p < 1)
    whole, cut = np.flatnonzero(~is_cut), np.flatnonzero(is_cut)
    if whole.size:
        cumulative = some_rows(mass, whole).cumsum(dim=1)
        tokens[whole] = draw(cumulative, cumulative[:, -1], some_rows(uniform, whole))
    if cut.size:
        k, p = torch.as_tensor(top_k[cut], device=device), torch.as_tensor(top_p[cut], device=device)
        tokens[cut] = draw_truncated(some_rows(logits, cut), some_rows(mass, cut), k, p, some_rows(uniform, cut))
    return tokens.masked_fill_(broken, -1).cpu().numpy()


def some_rows(tensor: Tensor, rows: np.ndarray) -> Tensor:
    """``rows``, rising, of a tensor: the tensor itself if that is all of them, else a copy."""
    if len(rows) == len(tensor):
        return tensor
    if not len(rows):
        return tensor[:0]
    return tensor[torch.as_tensor(rows, device=tensor.device)]
