"""What leads one sequence's tokens: the grammar of the reply, and the bound of its reasoning.

Law: at each position a guide forces one token, or leaves those that its mask allows, or leaves all; which, is a
function of the sequence's tokens alone. So a resumed sequence goes on as it would have, and it makes no difference
whether forced tokens are given in one step or one by one.

A grammar is of the whole reply, reasoning and all. Reasoning whose budget is spent is ended as soon as the grammar
takes its end. A grammar's end is the model's own; behind it (``ignore_eos``) the sequence is free.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np

from quire.decoding.reasoning import ReasoningBound

T = TypeVar("T")

MAX_RUN = 1024
"""Forced tokens given at once; what is left of them comes in the next step."""
USUAL_S = 0.01
MAX_EXCESS_S = 0.2
"""What a sequence's grammar may take of a thread beyond ``USUAL_S`` for each thing asked of it, all together, once it
has taken longer for one."""


TOO_SLOW = "the request's grammar takes too long to follow: make it less ambiguous, or its regexes simpler"


def broken(error: str) -> str:
    """What a request is told of a matcher's error."""
    first_line = error.partition("\n")[0]
    return f"the request's grammar cannot be followed: {first_line or 'no reason is known'}"


class Matcher(Protocol):
    """A place in a grammar: what is used of ``llguidance.LLMatcher``. Errors are a state, which it never leaves."""

    def consume_token(self, token: int, /) -> bool: ...

    def try_consume_tokens(self, tokens: list[int], /) -> int: ...

    def validate_tokens(self, tokens: list[int], /) -> int: ...

    def compute_ff_tokens(self) -> list[int]: ...

    def unsafe_compute_mask_ptr(self, address: int, num_bytes: int, /) -> None: ...

    def is_stopped(self) -> bool: ...

    def is_error(self) -> bool: ...

    def get_error(self) -> str: ...


class Guide:
    """Leads one sequence. Owned by ``Guides``; ``fill`` may run on another thread, while nothing else is called."""

    def __init__(
        self,
        matcher: Matcher | None,
        reasoning: ReasoningBound | None,
        end_ids: tuple[int, ...],
        *,
        has_jumps: bool,
        looks_ahead: bool,
        renew: Callable[[], Matcher] | None = None,
    ) -> None:
        """``end_ids``: those that end the grammar, the first of which is forced where nothing else is left; if there
        are none, it ends there by itself.

        ``has_jumps``: give forced tokens in one step. ``looks_ahead``: force the text that the grammar forces;
        otherwise it is left to masks, which other rules may narrow further. ``renew``: a matcher at the beginning that
        shares nothing with others, for when this one has met a limit.
        """
        self._matcher = matcher
        self._reasoning = reasoning
        self._end_ids = end_ids
        self._has_jumps = has_jumps
        self._looks_ahead = looks_ahead
        self._renew = renew
        self._consumed: list[int] = []  # by the matcher
        self._excess_s = 0.0
        self._clock = time.perf_counter
        self.forced: deque[int] = deque()
        """What must follow, as far as it is known and not yet given."""
        self.is_over = False
        """Whether its grammar has come to its end."""
        self.error: str | None = None
        """Why the sequence cannot go on."""
        if matcher is not None and matcher.is_error():
            self.error = broken(matcher.get_error())
        else:
            self._look_ahead()

    @property
    def has_mask(self) -> bool:
        """Whether not every token may follow."""
        return bool(self.forced) or self._matcher is not None

    def follow(self, token: int) -> None:
        """Take in the sequence's next token."""
        if self.forced:
            assert self.forced.popleft() == token, "a forced token was not chosen"
        if self.error is None and (self._matcher is None or self._ask(lambda matcher: matcher.consume_token(token))):
            self._took(token)

    def offer(self, token: int) -> bool:
        """Take in a token of the grammar's vocabulary, where nothing is forced, if it may follow; says whether."""
        if self.error is not None or not self._ask(lambda matcher: matcher.try_consume_tokens([token])):
            return False
        self._took(token)
        return True

    def jump(self) -> list[int]:
        """Take in the tokens that are forced now and given in this step, which are returned."""
        run: list[int] = []
        while self._has_jumps and self.forced and len(run) < MAX_RUN and self.error is None:
            run.append(self.forced[0])
            self.follow(run[-1])
        return run

    def advance(self, token: int) -> list[int]:
        """Take in the token that was chosen, and those that are forced behind it, which are returned."""
        self.follow(token)
        return self.jump()

    def fill(self, mask: np.ndarray, num_words: int) -> None:
        """Set the bits of the tokens that may follow: ``mask`` [W] int32; the grammar's are in the first words.

        Where the guide has no mask, of all.
        """
        if self.forced:
            mask[:] = 0
            _set(mask, self.forced[0])
        elif self._matcher is None:
            mask[:] = -1
        else:
            mask[num_words:] = 0
            address, num_bytes = mask.ctypes.data, num_words * mask.itemsize
            self._ask(lambda matcher: matcher.unsafe_compute_mask_ptr(address, num_bytes))
            if self.error is None and self._matcher.is_stopped() and self._end_ids:  # it is noticed only now
                self.forced.append(self._end_ids[0])

    def _took(self, token: int) -> None:
        """Go on behind a token that the matcher, if there is one, has consumed."""
        if self._reasoning is not None:
            self._reasoning.follow(token)
        if self._matcher is not None:
            self._consumed.append(token)
            if token in self._end_ids and self._matcher.is_stopped():
                self._end()
        if not self.forced:
            self._look_ahead()

    def _look_ahead(self) -> None:
        """Find out what must follow."""
        closing = list(self._reasoning.closing()) if self._reasoning is not None else []
        matcher = self._matcher
        if matcher is None:
            self.forced.extend(closing)
        elif matcher.is_stopped():
            if self._end_ids:
                self.forced.append(self._end_ids[0])
            else:
                self._end()
        elif closing and matcher.validate_tokens(closing) == len(closing):
            self.forced.extend(closing)
        elif self._looks_ahead:
            self.forced.extend(self._ask(lambda matcher: matcher.compute_ff_tokens()) or ())

    def _end(self) -> None:
        self._matcher, self.is_over = None, True

    def _ask(self, question: Callable[[Matcher], T]) -> T | None:
        """Ask the matcher; notes an error, and that it takes too long. None where it cannot go on."""
        assert self._matcher is not None
        clock = self._clock
        began_s = clock()
        answer: T | None = question(self._matcher)
        if self._matcher.is_error():
            answer = self._ask_another(question)
        excess_s = clock() - began_s - USUAL_S
        if excess_s > 0:
            self._count(excess_s)
        return answer if self.error is None else None

    def _ask_another(self, question: Callable[[Matcher], T]) -> T | None:
        """Ask a new matcher at the same place, if there may be one, since this one can no longer be asked."""
        assert self._matcher is not None
        answer = None
        if self._renew is not None:
            self._matcher, self._renew = self._renew(), None
            for token in self._consumed:
                self._matcher.consume_token(token)
            answer = question(self._matcher)
        if self._matcher.is_error():
            self.error = broken(self._matcher.get_error())
        return answer

    def _count(self, excess_s: float) -> None:
        """Note that something took longer than usual. The time that passed may have been others', and to ask for the
        thread's own is dear: that is done from the first such case on, which only seemed slow, and does not count."""
        if self._clock is not time.thread_time:
            self._clock = time.thread_time
            return
        self._excess_s += excess_s
        if self._excess_s > MAX_EXCESS_S and self.error is None:
            self.error = TOO_SLOW


def _set(mask: np.ndarray, token: int) -> None:
    mask.view(np.uint32)[token // 32] |= np.uint32(1 << token % 32)
