"""From logits to tokens, for the rows of one step.

The order is vLLM's: log probabilities of the raw logits; the grammar; allowed_token_ids, bad_words, min_tokens,
logit_bias; repetition, frequency and presence penalties; then for a greedy row the likeliest token, and for the others
temperature, min_p, top_k, top_p and a draw. Where one token alone is left to the grammar or to a bound of reasoning,
the rules after them have no say.

A row that draws, and of whose logits nothing but a guide changes any, draws twice: from all tokens by its temperature
alone, and takes that one if the guide allows it and its wishes keep it; else by a second number from those that are
allowed and kept. That is a draw from these, since what is rejected leaves their proportions as they are; and mostly the
guide need not be asked of any token but the first.

Laws. A row's token and log probabilities depend on that row alone, bit for bit: its logits, its sequence's parameters
and tokens, (seed, position). A row that cannot be sampled gives -1 and disturbs no other. A steady step costs a fixed
number of array operations; only rows that ask for a feature pay for it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from quire.core.errors import NOTHING_LEFT
from quire.core.step import Admission, TopLogprobs
from quire.decoding.grammar import NOTHING_GIVEN, Given, Grammars, Guides, Led, Masked
from quire.decoding.logprobs import top_logprobs
from quire.decoding.masks import Constraints
from quire.decoding.penalties import Penalties
from quire.decoding.random import second_uniforms, uniforms
from quire.decoding.slots import NO_LOGPROBS, SlotParameters
from quire.kernels.ops.sampling import (
    NO_TOKEN,
    Draws,
    Sampling,
    TorchSampling,
    by_temperature_alone,
    is_sound,
    some_rows,
)

Redraw = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Token ids [n] int32 from rows [n], rising, of a step's logits, for slots [n] at positions [n], among what masks
[n, W] allow (as Sampling.keep_allowed has them)."""

Entries = dict[int, TopLogprobs]
"""Log probabilities by row."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What was chosen in one step."""

    token_ids: np.ndarray
    """[R] int32; -1 where the logits held NaN or +inf, or where the request's own rules left no token."""
    logprobs: Entries = field(default_factory=dict)
    """For the rows that asked and got a token."""
    given: Given = NOTHING_GIVEN
    failures: dict[int, str] = field(default_factory=dict)
    """By row, why it is -1, where the logits are not to blame."""


class Sampler:
    """Chooses tokens for the sequences in its slots. One for each model runner, in the worker's process.

    A slot is admitted, sampled any number of times, released. Not thread-safe.
    """

    def __init__(
        self,
        max_num_seqs: int,
        vocab_size: int,
        device: torch.device,
        sampling: Sampling | None = None,
        grammars: Grammars | None = None,
        *,
        has_jumps: bool = True,
    ) -> None:
        """``sampling``: what chooses and scores tokens; torch where it is not given. ``grammars``: who compiles them.

        ``has_jumps``: whether forced tokens may be given several in one step.
        """
        self._vocab_size = vocab_size
        self._sampling = sampling or TorchSampling()
        self.parameters = SlotParameters(max_num_seqs, vocab_size)
        """Of all slots; for whoever draws in the sampler's place."""
        self._constraints = Constraints(max_num_seqs, vocab_size, device)
        self._penalties = Penalties(max_num_seqs, vocab_size, device)
        self._guides = Guides(max_num_seqs, vocab_size, grammars, has_jumps=has_jumps)
        self._named: dict[int, tuple[int, ...]] = {}
        """By slot, tokens whose log probabilities are asked for by name."""

    @torch.inference_mode()
    def admit(self, admission: Admission) -> None:
        """Fill a slot. Tokens beyond the prompt are taken as generated; whatever the slot held before is dropped."""
        self.release(np.array([admission.slot]))
        has_rules = self._constraints.admit(admission)
        is_guided = self._guides.admit(admission, has_rules=has_rules)
        has_penalties = admission.params.has_penalties
        if has_penalties:
            self._penalties.admit(admission)
        if admission.params.logprob_token_ids:
            self._named[admission.slot] = admission.params.logprob_token_ids
        self.parameters.put(admission, is_processed=has_rules or has_penalties, is_guided=is_guided)

    @torch.inference_mode()
    def release(self, slots: np.ndarray) -> None:
        """Drop the state of slots [n] whose sequences are gone."""
        self._guides.release(slots)
        self._constraints.release(slots)
        self._penalties.release(slots)
        for slot in slots.tolist() if self._named else ():
            self._named.pop(slot, None)

    def prepare(self, slots: np.ndarray) -> None:
        """Begin with what ``sample`` will need for these rows and does not depend on logits. Returns at once."""
        self._guides.prepare(slots)

    @torch.inference_mode()
    def sample(self, logits: Tensor, slots: np.ndarray, positions: np.ndarray) -> Sampled:
        """Choose the next token of each row, and count it as the sequence's own.

        ``logits`` [R, V] float32, changed in place; ``slots`` [R], each once; ``positions`` [R]: index of the token
        that is chosen, equal to the number of tokens before it. Grammars are quicker where ``prepare`` was called with
        the same ``slots`` before.
        """
        assert logits.shape == (len(slots), self._vocab_size) and logits.dtype == torch.float32
        asking = np.flatnonzero(self.parameters.num_logprobs[slots] != NO_LOGPROBS)
        if not self.parameters.is_edited[slots].any():
            token_ids = self._choose(logits, slots, positions)
            return Sampled(token_ids, self._report(logits, asking, slots, token_ids))
        free = self._free(logits, slots, positions)
        raw = logits.clone() if len(asking) == len(slots) else some_rows(logits, asking)
        masked = self._guides.masked(slots)
        chooses_first = self._guides.choose_first(slots)
        failed = self._edit(logits, slots, positions, masked, self.parameters.is_edited[slots] & ~chooses_first)
        token_ids = self._choose(logits, slots, positions, free)
        led = self._guides.of(slots)
        first = [(row, guide) for row, guide in led if chooses_first[row]]
        if first:
            failed |= self._mend(first, slots, positions, token_ids, partial(self._redraw, logits))
        if failed:
            token_ids[list(failed)] = -1
        given = self._record(led, slots, token_ids)
        reasons = self._reasons(slots, token_ids, failed)
        return Sampled(token_ids, self._report(raw, asking, slots, token_ids), given, reasons)

    def lead(self, token_ids: np.ndarray, slots: np.ndarray, positions: np.ndarray, redraw: Redraw) -> Sampled:
        """``sample`` where Choice.LED will do, and what slots try is known.

        ``token_ids`` [R] int32, changed in place: of a slot without a guide, what it chooses; else what it chooses if
        that may follow, or UNSURE. ``redraw`` gives what ``sample`` would.
        """
        led = self._guides.of(slots)
        if not led:
            return Sampled(token_ids)
        failed = self._mend(led, slots, positions, token_ids, redraw)
        if failed:
            token_ids[list(failed)] = -1
        given = self._guides.advance(led, token_ids)
        return Sampled(token_ids, {}, given, self._reasons(slots, token_ids, failed))

    @torch.inference_mode()
    def score(self, logits: Tensor, given: np.ndarray, k: int) -> list[TopLogprobs]:
        """Score tokens ``given`` [n, g] by ``logits`` [n, V] float32, which stay; k as in top_logprobs."""
        return top_logprobs(self._sampling, logits, np.arange(len(given)), given, k)

    def _edit(
        self, logits: Tensor, slots: np.ndarray, positions: np.ndarray, masked: Masked | None, unseen: np.ndarray
    ) -> dict[int, str]:
        """Apply to ``logits`` [R, V], in place, all that is asked before the choice.

        ``unseen`` [R] bool: rows of which nobody else finds out whether they are finite, unless ``masked`` does.
        Returns the rows that must not choose, and why: empty where the logits were not finite. That is looked at here,
        because what is forbidden may cover the NaN that shows it.
        """
        failed: dict[int, str] = {}
        ruled = self._constraints.ruled(slots, positions)
        if masked is not None:
            sound = self._sampling.keep_allowed(logits, masked.rows, masked.masks)
            failed = masked.errors | dict.fromkeys(masked.rows[~sound].tolist(), "")
            unseen[masked.rows] = False
            if ruled.size:
                ruled = np.setdiff1d(ruled, masked.rows[masked.is_forced])
        rows = np.flatnonzero(unseen)
        if rows.size:
            failed |= dict.fromkeys(rows[~is_sound(logits, rows)].tolist(), "")
        self._constraints.apply(logits, slots, positions, ruled)
        self._penalties.apply(logits, slots)
        return failed

    def _mend(
        self, first: list[Led], slots: np.ndarray, positions: np.ndarray, token_ids: np.ndarray, redraw: Redraw
    ) -> dict[int, str]:
        """Of the rows that chose ``first``, before their guides, let those choose again whose guide refuses that.

        ``token_ids`` [R] change in place. Returns what ``_edit`` does.
        """
        tokens = token_ids.tolist()
        failed = {row: "" for row, _ in first if tokens[row] == NO_TOKEN}
        refused = self._guides.offer(first, token_ids)
        if refused is not None:
            rows = refused.rows
            token_ids[rows] = redraw(rows, slots[rows], positions[rows], refused.masks)
            failed |= refused.errors
        return failed

    def _redraw(
        self, logits: Tensor, rows: np.ndarray, slots: np.ndarray, positions: np.ndarray, masks: np.ndarray
    ) -> np.ndarray:
        """A Redraw from processed ``logits`` [R, V], which change in place."""
        self._sampling.keep_allowed(logits, rows, masks)
        return self._sampling.draw_tokens(logits, self._draws(slots, positions), rows)

    def _free(self, logits: Tensor, slots: np.ndarray, positions: np.ndarray) -> np.ndarray | None:
        """Of rows that draw twice, from raw ``logits``, what they draw first: [R] int32, NO_TOKEN for others."""
        rows = np.flatnonzero(self.parameters.is_tried[slots])
        if not rows.size:
            return None
        free = np.full(len(slots), NO_TOKEN, np.int32)
        draws = self._draws(slots[rows], positions[rows])
        free[rows] = self._sampling.draw_tokens(logits, by_temperature_alone(draws, self._vocab_size), rows)
        return free

    def _choose(
        self, logits: Tensor, slots: np.ndarray, positions: np.ndarray, free: np.ndarray | None = None
    ) -> np.ndarray:
        """Token ids [R] int32 from the processed logits, -1 where there is none to choose; ``free``: see ``_free``."""
        draws = self._draws(slots, positions)
        if free is None:
            return self._sampling.draw_tokens(logits, draws)
        seconds = second_uniforms(self.parameters.seed[slots], positions)
        draws = replace(draws, uniforms=np.where(self.parameters.is_tried[slots], seconds, draws.uniforms))
        return self._sampling.draw_tokens(logits, draws, free=free)

    def _draws(self, slots: np.ndarray, positions: np.ndarray) -> Draws:
        table = self.parameters
        return Draws(
            temperature=table.temperature[slots],
            log_min_p=table.log_min_p[slots],
            top_k=table.top_k[slots],
            top_p=table.top_p[slots],
            uniforms=uniforms(table.seed[slots], positions),
        )

    def _record(self, led: list[Led], slots: np.ndarray, token_ids: np.ndarray) -> Given:
        """Count the tokens just chosen, and those that they bring with them, which are returned."""
        chosen = np.flatnonzero(token_ids >= 0)
        self._count(slots[chosen], token_ids[chosen])
        given = self._guides.advance(led, token_ids)
        for place in range(max(map(len, given.forced.values()), default=0)):
            tokens = {row: run[place] for row, run in given.forced.items() if place < len(run)}
            self._count(slots[list(tokens)], np.array(list(tokens.values()), np.int32))
        return given

    def _count(self, slots: np.ndarray, token_ids: np.ndarray) -> None:
        self._constraints.record(slots, token_ids)
        self._penalties.record(slots, token_ids)

    def _reasons(self, slots: np.ndarray, token_ids: np.ndarray, failed: dict[int, str]) -> dict[int, str]:
        """By row, why there is no token, where the logits are not to blame: as they are, where nothing changes them."""
        is_edited = self.parameters.is_edited
        lacking = [row for row, token in enumerate(token_ids.tolist()) if token < 0 and is_edited[slots[row]]]
        reasons = {row: failed.get(row, NOTHING_LEFT) for row in lacking}
        return {row: reason for row, reason in reasons.items() if reason}

    def _report(self, raw: Tensor, asking: np.ndarray, slots: np.ndarray, token_ids: np.ndarray) -> Entries:
        """Entries of the rows ``asking`` [n], from their logits: ``raw`` [n, V], or all rows' [R, V]."""
        if not asking.size:
            return {}
        wanted = np.where(token_ids[asking] >= 0, self.parameters.num_logprobs[slots[asking]], NO_LOGPROBS)
        places = asking if len(raw) == len(slots) else np.arange(len(asking))
        alike: dict[tuple[int, int], list[int]] = {}
        for i, (k, slot) in enumerate(zip(wanted.tolist(), slots[asking].tolist(), strict=True)):
            if k != NO_LOGPROBS:
                alike.setdefault((k, len(self._named.get(slot, ()))), []).append(i)
        entries: Entries = {}
        for (k, num_named), some in alike.items():
            rows = asking[some]
            given = token_ids[rows][:, None]
            if num_named:
                given = np.hstack((given, np.array([self._named[slot] for slot in slots[rows].tolist()], np.int32)))
            found = top_logprobs(self._sampling, raw, places[some], given, k)
            entries.update(zip(rows.tolist(), found, strict=True))
        return entries
