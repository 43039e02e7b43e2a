"""One sequence on the client's side: its tokens' text, as far as it may be shown, and what came with it.

Tokens that say nothing but their text go to a Tap, where there is one. What such a token touches is kept together: it
comes from memory each time, since an engine's steps go through all caches, so objects count, not what is computed.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from quire.core.outputs import CompletionOutput, Logprobs, OutputKind
from quire.core.request import Request
from quire.core.step import FinishReason
from quire.text.detokenizer import Detokenizer
from quire.text.repetition import RepetitionDetector
from quire.text.stop import StopMatcher

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer


class Tap(Protocol):
    """Where a request's text goes the moment it comes."""

    def take(self, text: str, token_ids: Sequence[int]) -> bool:
        """More of a text, and its tokens. False: not now, so it becomes an Update. Raises nothing."""
        ...


class Tapped:
    """What a token touches that is a text and nothing else."""

    __slots__ = ("last_token_s", "table", "tap", "token_ids")

    def __init__(self, table: Mapping[int, bytes], tap: Tap, token_ids: list[int]) -> None:
        self.table = table
        self.tap = tap
        self.token_ids = token_ids
        self.last_token_s: float | None = None


class Continuation:
    """One sequence on the client's side: its text, as far as it may be shown, and what came with it."""

    def __init__(self, request: Request, index: int, tokenizer: "Tokenizer", prompt_ids: list[int]) -> None:
        params = request.params
        self.index = index
        self.params = params
        self.token_ids: list[int] = []
        self.pieces: list[str] = []
        self.logprobs: list[Logprobs] | None = None if params.logprobs is None else []
        self.cumulative_logprob = 0.0
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        self.detokenizer = (
            Detokenizer(
                tokenizer,
                prompt_ids,
                skip_special_tokens=params.skip_special_tokens,
                spaces_between_special_tokens=params.spaces_between_special_tokens,
                shown_special_token_ids=params.shown_special_token_ids,
            )
            if params.detokenize
            else None
        )
        self.matcher = StopMatcher(params.stop, params.include_stop_str_in_output) if params.stop else None
        self.detector = RepetitionDetector(params.repetition_detection) if params.repetition_detection else None
        self.has_news = False
        """Something came since ``output`` was last asked."""
        self._searched_pieces = 0
        self._has_new_line = False
        # where the next delta begins
        self.sent_tokens = 0
        self.sent_pieces = 0
        self.tap: Tap | None = None

    def push(self, token: int, *, shown: bool, is_last: bool) -> bool:
        """Take one more token; ``shown`` is False for a stop token whose text is kept back. True: it ends here.

        ``is_last``: the engine ends it with this token.
        """
        self.has_news = True
        self.token_ids.append(token)
        if self.detokenizer is not None and shown and self._emit(self.detokenizer.push(token)):
            return True
        if self.detector is None or not self.detector.push(token):
            return False
        if is_last or len(self.token_ids) < self.params.min_tokens:
            return False
        self.end(FinishReason.REPETITION, None)
        return True

    def _emit(self, text: str) -> bool:
        if self.matcher is None or len(self.token_ids) <= self.params.min_tokens:
            if text:
                self.pieces.append(text)
            return False
        text, found = self.matcher.push(text)
        if text:
            self.pieces.append(text)
        if found is None:
            return False
        self.finish_reason, self.stop_reason = FinishReason.STOP.value, found
        return True

    def end(self, reason: FinishReason, stop_reason: int | None) -> None:
        """Let out what was held back: incomplete characters, beginnings of stop strings."""
        self.has_news = True
        if self.detokenizer is not None and not self._emit(self.detokenizer.flush()) and self.matcher is not None:
            rest = self.matcher.flush()
            if rest:
                self.pieces.append(rest)
        if self.finish_reason is None:
            self.finish_reason, self.stop_reason = reason.value, stop_reason

    @property
    def has_new_line(self) -> bool:
        """Whether the text so far has one; looks at each piece once, however often it is asked."""
        if not self._has_new_line:
            self._has_new_line = any("\n" in piece for piece in self.pieces[self._searched_pieces :])
            self._searched_pieces = len(self.pieces)
        return self._has_new_line

    def offer(self) -> bool:
        """Offer what is new to the tap, if there is one. Whether it was taken; a tap that declines is there no more."""
        if self.tap is None:
            return False
        if not self.tap.take("".join(self.pieces[self.sent_pieces :]), self.token_ids[self.sent_tokens :]):
            self.tap = None
            return False
        self._note_sent()
        return True

    def tapped(self) -> "Tapped | None":
        """For tokens that have a text of their own, whatever came before and comes behind; None if that counts now."""
        is_searched = self.matcher is not None or self.detector is not None
        if self.tap is None or is_searched or self.detokenizer is None or not self.detokenizer.is_even:
            return None
        return Tapped(self.detokenizer.table, self.tap, self.token_ids)

    def catch_up(self) -> None:
        """With tokens that went to the tap."""
        if self.detokenizer is not None and self.sent_tokens < len(self.token_ids):
            table = self.detokenizer.table
            self.pieces.append(b"".join([table[token] for token in self.token_ids[self.sent_tokens :]]).decode())
            self._note_sent()

    def output(self, kind: OutputKind) -> CompletionOutput:
        first, piece = (self.sent_tokens, self.sent_pieces) if kind is OutputKind.DELTA else (0, 0)
        self._note_sent()
        return CompletionOutput(
            index=self.index,
            text="".join(self.pieces[piece:]),
            token_ids=self.token_ids[first:],
            cumulative_logprob=None if self.logprobs is None else self.cumulative_logprob,
            logprobs=None if self.logprobs is None else self.logprobs[first:],
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
        )

    def _note_sent(self) -> None:
        self.has_news = False
        self.sent_tokens, self.sent_pieces = len(self.token_ids), len(self.pieces)
