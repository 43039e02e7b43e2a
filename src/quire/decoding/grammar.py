"""Grammars and bounds of reasoning for the sequences that have them: masks by slot, and tokens that are forced.

Owns the guides, and the thread on which masks are computed while the model runs. A step asks for its masks before the
model runs (``prepare``) and takes them afterwards (``masked``); sequences without a guide cost nothing.

Often a token is what a sequence takes, if it may follow, whatever else is forbidden: of a greedy sequence the likeliest
one, and mostly what another one draws first (sampler.py). To ask a guide of one token takes a tenth of a mask, or
nothing where the token is followed at once. So sequences may choose first, and offer what they chose to their guides;
masks are made for those alone whose guide refuses, or who cannot tell (``offer``).

Law: between ``prepare`` and ``masked`` the guides belong to the thread. Which way a sequence goes does not change its
tokens.
"""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np

from quire.core.step import Admission
from quire.decoding.guide import Guide, Matcher
from quire.decoding.reasoning import ReasoningBound
from quire.kernels.ops.sampling import NO_TOKEN


class Grammars(Protocol):
    """Where compiled grammars come from. Those that are not there are compiled in place."""

    def matcher(self, grammar: str) -> Matcher:
        """The grammar's beginning, for one sequence; in its error state if it cannot be compiled."""
        ...

    def renewed(self, grammar: str) -> Matcher:
        """The same, sharing nothing with others, since one of them has met a limit. On any thread."""
        ...

    def vocabulary(self) -> "GrammarVocabulary":
        """Of the tokenizer with which grammars are compiled."""
        ...


class GrammarVocabulary(NamedTuple):
    """What masks and ends have to do with tokens."""

    size: int
    """Bits of a matcher's mask."""
    end_ids: tuple[int, ...]
    """Tokens that end a grammar."""


class Masked(NamedTuple):
    """Rows of a step in which not every token may follow."""

    rows: np.ndarray
    """[n] int64, rising."""
    masks: np.ndarray
    """[n, W] int32: bit t % 32 of word t // 32 says whether token t may follow. Good until the next ``prepare``."""
    is_forced: np.ndarray
    """[n] bool: one token alone is left, whatever else the request says."""
    errors: dict[int, str]
    """By row: why nothing may follow."""


class Given(NamedTuple):
    """What became of the tokens that were chosen, by row."""

    forced: dict[int, list[int]]
    """What follows them at once."""
    concluded: frozenset[int]
    """Whose grammar has come to its end."""


NOTHING_GIVEN = Given({}, frozenset())

Led = tuple[int, Guide]
"""A row of a step, and who leads it."""


class Guides:
    """The guides of all slots. One for each sampler, in the worker's process."""

    def __init__(self, max_num_seqs: int, vocab_size: int, grammars: Grammars | None, *, has_jumps: bool) -> None:
        """``has_jumps``: whether a step may give a sequence several tokens."""
        self._grammars = grammars
        self._has_jumps = has_jumps
        self._vocab_size = vocab_size
        self._num_words = -(-vocab_size // 32)
        self._guides: dict[int, Guide] = {}
        self._chooses_first = np.zeros(max_num_seqs, bool)
        self._masks = np.empty((0, 0), np.int32)
        self._num_tokens = 0  # of the grammars'
        self._thread: ThreadPoolExecutor | None = None
        self._slots: np.ndarray | None = None  # of the rows being prepared
        self._asked: list[tuple[int, Guide]] = []
        self._taken: dict[int, list[int]] = {}  # rows whose guides have their tokens already, and what follows at once
        self._filling: Future[None] | None = None

    def admit(self, admission: Admission, *, has_rules: bool) -> bool:
        """Lead a sequence, taking in what it has generated; False if nothing is to be led. The slot holds none yet.

        ``has_rules``: whether something else forbids it tokens too.
        """
        if admission.grammar is None and admission.reasoning is None:
            return False
        self._settle()
        guide = self._guide(admission)
        self._make_room()
        for token in admission.tokens[admission.prompt_len :].tolist():
            guide.follow(token)
        self._guides[admission.slot] = guide
        self._chooses_first[admission.slot] = admission.params.is_greedy and not has_rules
        return True

    def release(self, slots: np.ndarray) -> None:
        """Drop the guides of these slots; slots without any are passed over."""
        if self._guides:
            self._settle()
            for slot in slots.tolist():
                self._guides.pop(slot, None)
            self._chooses_first[slots] = False

    def prepare(self, slots: np.ndarray) -> None:
        """Begin with the masks of the rows that will sample: ``slots`` [R]."""
        if not self._guides:
            return
        self._settle()
        self._slots = slots
        chooses_first = self._chooses_first[slots].tolist()
        self._asked = [(row, guide) for row, guide in self.of(slots) if guide.has_mask and not chooses_first[row]]
        if self._asked:
            assert self._thread is not None
            self._filling = self._thread.submit(self._fill)

    def masked(self, slots: np.ndarray) -> Masked | None:
        """The masks of the rows ``slots`` [R] that need one, now or once they are done; None where none does."""
        if not self._guides:
            self._asked = []
            return None
        if self._slots is None or not np.array_equal(self._slots, slots):
            self.prepare(slots)
        self._settle()
        return self._masked()

    def choose_first(self, slots: np.ndarray) -> np.ndarray:
        """Which of the rows ``slots`` [R] choose before their guide is asked: [R] bool."""
        first: np.ndarray = self._chooses_first[slots]
        return first

    def of(self, slots: np.ndarray) -> list[Led]:
        """Of the rows ``slots`` [R] those that have guides, rising."""
        guides = self._guides
        return [(row, guides[slot]) for row, slot in enumerate(slots.tolist()) if slot in guides]

    def offer(self, first: Iterable[Led], token_ids: np.ndarray) -> Masked | None:
        """Let the guides of rows that chose ``first`` take what they chose: of ``token_ids`` [R].

        Where one token is forced it stands in the row afterwards. Returns the masks of the rows whose guide refuses
        what they chose, or that are UNSURE; None where there are none. NO_TOKEN is passed over. `advance` must follow.
        """
        self._settle()
        self._asked, self._taken = [], {}
        tokens = token_ids.tolist()
        for row, guide in first:
            token = tokens[row]
            if token == NO_TOKEN or (token >= 0 and not guide.has_mask):
                continue
            if guide.forced and guide.forced[0] < self._vocab_size and guide.error is None:
                token_ids[row] = guide.forced[0]
            elif not guide.forced and 0 <= token < self._num_tokens and guide.offer(token):
                self._taken[row] = guide.jump()
            else:
                self._asked.append((row, guide))
        self._fill()
        return self._masked()

    def _masked(self) -> Masked | None:
        asked = self._asked
        if not asked:
            return None
        return Masked(
            rows=np.array([row for row, _ in asked]),
            masks=self._masks[: len(asked), : self._num_words],
            is_forced=np.array([bool(guide.forced) for _, guide in asked]),
            errors={row: guide.error for row, guide in asked if guide.error is not None},
        )

    def advance(self, led: Iterable[Led], token_ids: np.ndarray) -> Given:
        """Let all rows that are ``led`` take in the tokens just chosen, as far as they have not: ``token_ids`` [R]."""
        forced: dict[int, list[int]] = {}
        concluded: set[int] = set()
        taken, self._taken = self._taken, {}
        tokens = token_ids.tolist()
        for row, guide in led:
            if row in taken:
                run = taken[row]
            elif tokens[row] >= 0 and not guide.is_over:
                run = guide.advance(tokens[row])
            else:
                continue
            if run:
                forced[row] = run
            if guide.is_over:
                concluded.add(row)
        return Given(forced, frozenset(concluded))

    @property
    def _num_grammar_words(self) -> int:
        return -(-self._num_tokens // 32)

    def _guide(self, admission: Admission) -> Guide:
        params = admission.params
        singles_out = params.allowed_token_ids is not None or bool(admission.bad_word_ids) or bool(params.logit_bias)
        reasoning = ReasoningBound(admission.reasoning) if admission.reasoning else None
        has_jumps = self._has_jumps and params.logprobs is None
        grammars, grammar = self._grammars, admission.grammar
        if grammar is None:
            return Guide(None, reasoning, (), has_jumps=has_jumps, looks_ahead=False)
        assert grammars is not None, "a grammar, and nobody who compiles"
        vocabulary = grammars.vocabulary()
        self._num_tokens = vocabulary.size
        return Guide(
            grammars.matcher(grammar),
            reasoning,
            tuple(token for token in vocabulary.end_ids if token < self._vocab_size),
            has_jumps=has_jumps,
            looks_ahead=not singles_out,
            renew=lambda: grammars.renewed(grammar),
        )

    def _make_room(self) -> None:
        """The thread, and masks as wide as a matcher's and the model's, once there is a use for them."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="quire-masks")
        width = max(self._num_words, self._num_grammar_words)
        if self._masks.shape[1] < width:
            self._masks = np.empty((len(self._chooses_first), width), np.int32)

    def _fill(self) -> None:
        for mask, (_, guide) in zip(self._masks, self._asked, strict=False):
            if guide.error is None:
                guide.fill(mask, self._num_grammar_words)

    def _settle(self) -> None:
        """Wait for the thread, whose masks are for the caller or for nobody; raises what went wrong there."""
        self._slots = None
        filling, self._filling = self._filling, None
        if filling is not None:
            filling.result()
