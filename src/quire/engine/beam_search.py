"""Beam search over one prompt: which continuations to go on with, which have ended, and when to stop looking.

Owns the hypotheses; knows no engine. Whoever runs it asks an engine for the likeliest next tokens of every live
hypothesis, one step at a time; the prefix cache has all but the last tokens of each.
Law: the hypotheses are those of transformers' ``generate(num_beams=width, early_stopping=False)``: of the ``width``
likeliest candidates of a step those that end are kept if their score is among the ``width`` best; the ``width``
likeliest that do not end go on; the search is over when the likeliest of them, by its present length, could no longer
replace a kept one. A score is the sum of log probabilities over the number of generated tokens (an end-of-sequence
token counts), raised to ``length_penalty``.
Source: Graves, "Sequence Transduction with Recurrent Neural Networks", 2012; the length penalty after Wu et al., 2016.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from quire.core.errors import InvalidRequest
from quire.core.outputs import BeamSearchSequence, CompletionOutput, Logprobs
from quire.core.sampling_params import BeamSearchParams, SamplingParams
from quire.core.step import FinishReason
from quire.text.detokenizer import Detokenizer
from quire.text.stop import StopMatcher

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer


class Hypothesis(msgspec.Struct, frozen=True, kw_only=True):
    """One continuation. ``score`` and ``finish_reason`` are given when it has ended."""

    token_ids: tuple[int, ...] = ()
    """Those generated, with the one that ended it."""
    logprobs: tuple[Logprobs, ...] = ()
    """By token: what the engine said of its place."""
    cumulative_logprob: float = 0.0
    tail: bytes = b""
    """The last bytes of its text, as many as a stop string may need."""
    score: float = -math.inf
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class BeamSearch:
    """The search of one prompt: give ``advance`` what the engine says of all in ``live``, until ``is_over``.

    ``eos_token_ids`` end a hypothesis unless ``params.ignore_eos``. ``max_logprobs``: how many the engine tells of a
    place; raises InvalidRequest if they are too few for the width.
    """

    def __init__(
        self,
        params: BeamSearchParams,
        tokenizer: "Tokenizer",
        eos_token_ids: Iterable[int],
        *,
        max_logprobs: int,
    ) -> None:
        self.live = [Hypothesis()]
        self.ended: list[Hypothesis] = []
        """At most ``beam_width``, best first."""
        self.is_over = False
        self._params = params
        self._max_num_tokens = params.max_tokens
        self._eos = frozenset(() if params.ignore_eos else eos_token_ids)
        self._stop_ids = self._eos | frozenset(params.stop_token_ids)
        self._tokenizer = tokenizer
        self._stops = [(text, text.encode()) for text in params.stop]
        self._tail_bytes = max((len(data) for _, data in self._stops), default=1) - 1
        self._bytes = tokenizer.byte_table(params.skip_special_tokens, frozenset(params.shown_special_token_ids))
        # Whatever else is likelier, so many hold ``beam_width`` tokens that do not end a sequence.
        self._num_compared = min(params.beam_width + len(self._stop_ids), tokenizer.vocab_size)
        if self._num_compared > max_logprobs:
            raise InvalidRequest(
                f"beam_width is {params.beam_width}: with {len(self._stop_ids)} ids that end a sequence, "
                f"{self._num_compared} tokens must be compared at each place, and this engine tells at most "
                f"{max_logprobs} (--max-logprobs).",
                param="$.beam_width",
            )

    @property
    def step_params(self) -> SamplingParams:
        """What to ask of the engine for each live hypothesis: one token's place, and the likeliest in it."""
        shown = self._params.logprobs or 0
        return SamplingParams(
            temperature=0.0,
            max_tokens=1,
            ignore_eos=True,
            detokenize=False,
            logprobs=-1 if shown == -1 else max(self._num_compared, shown),
        )

    def limit(self, room: int) -> None:
        """Generate at most ``room`` tokens, whatever was asked for."""
        self._max_num_tokens = min(room, self._max_num_tokens or room)

    def advance(self, found: Sequence[Logprobs]) -> None:
        """Take one step; ``found``: for each of ``live``, the likeliest tokens of its next place."""
        width = self._params.beam_width
        candidates = [
            (self.live[place].cumulative_logprob + entry.logprob, place, token)
            for place, entries in enumerate(found)
            for token, entry in entries.items()
            if entry.logprob > -math.inf and self._is_allowed(token)
        ]
        candidates.sort(key=lambda candidate: -candidate[0])
        going_on: list[Hypothesis] = []
        ended = list(self.ended)
        for rank, (total, place, token) in enumerate(candidates):
            if rank >= width and len(going_on) == width:
                break
            hypothesis = self._extended(self.live[place], token, found[place], total)
            if hypothesis.finish_reason is None:
                if len(going_on) < width:
                    going_on.append(hypothesis)
            elif rank < width:
                ended.append(hypothesis)
        self.ended = sorted(ended, key=lambda hypothesis: -hypothesis.score)[:width]
        self.live = going_on
        self.is_over = not self._can_improve()

    def abandon(self) -> None:
        """End the search where it stands: what is live is cut off."""
        cut = [self._ended(hypothesis, FinishReason.ABORT, None) for hypothesis in self.live]
        self.ended = sorted(self.ended + cut, key=lambda hypothesis: -hypothesis.score)[: self._params.beam_width]
        self.live = []
        self.is_over = True

    def text(self, hypothesis: Hypothesis, prompt_ids: Sequence[int]) -> str:
        """The continuation's text, without what stopped it unless that was asked for."""
        params = self._params
        ids = self._shown_ids(hypothesis)
        detokenizer = Detokenizer(
            self._tokenizer,
            prompt_ids,
            skip_special_tokens=params.skip_special_tokens,
            shown_special_token_ids=params.shown_special_token_ids,
        )
        text = "".join(map(detokenizer.push, ids[: params.min_tokens]))
        rest = "".join(map(detokenizer.push, ids[params.min_tokens :])) + detokenizer.flush()
        if params.stop:
            matcher = StopMatcher(params.stop, params.include_stop_str_in_output)
            rest = matcher.push(rest)[0] + matcher.flush()
        return text + rest

    def outputs(self, prompt_ids: Sequence[int], n: int) -> list[CompletionOutput]:
        """The ``n`` best, as every other way of generating gives them."""
        return [
            CompletionOutput(
                index=index,
                text=self.text(hypothesis, prompt_ids),
                token_ids=list(hypothesis.token_ids),
                cumulative_logprob=hypothesis.cumulative_logprob,
                logprobs=self._shown(hypothesis),
                finish_reason=hypothesis.finish_reason,
                stop_reason=hypothesis.stop_reason,
            )
            for index, hypothesis in enumerate(self.ended[:n])
        ]

    def sequences(self, prompt_ids: Sequence[int]) -> list[BeamSearchSequence]:
        """The beams with their prompt, as the offline face gives them."""
        prompt = self._tokenizer.decode(prompt_ids, self._params.skip_special_tokens)
        return [
            BeamSearchSequence(
                tokens=[*prompt_ids, *self._shown_ids(hypothesis)],
                logprobs=list(hypothesis.logprobs),
                cum_logprob=hypothesis.cumulative_logprob,
                score=hypothesis.score,
                text=prompt + self.text(hypothesis, prompt_ids),
                finish_reason=hypothesis.finish_reason,
                stop_reason=hypothesis.stop_reason,
            )
            for hypothesis in self.ended
        ]

    def _shown_ids(self, hypothesis: Hypothesis) -> tuple[int, ...]:
        """Without a stop token, unless that was asked for."""
        is_stopped_by_token = hypothesis.token_ids and hypothesis.token_ids[-1] in self._stop_ids
        hides = is_stopped_by_token and not self._params.include_stop_str_in_output
        return hypothesis.token_ids[:-1] if hides else hypothesis.token_ids

    def _shown(self, hypothesis: Hypothesis) -> list[Logprobs] | None:
        """The chosen tokens' log probabilities, and those of as many of the likeliest as were asked for."""
        count = self._params.logprobs
        if count is None:
            return None
        if count == -1:
            count = self._tokenizer.vocab_size
        return [
            {token: entries[token]} | {other: entry for other, entry in entries.items() if (entry.rank or 0) <= count}
            for token, entries in zip(hypothesis.token_ids, hypothesis.logprobs, strict=True)
        ]

    def _is_allowed(self, token: int) -> bool:
        return token not in self._stop_ids or len(self.live[0].token_ids) >= self._params.min_tokens

    def _extended(self, hypothesis: Hypothesis, token: int, entries: Logprobs, total: float) -> Hypothesis:
        count = len(hypothesis.token_ids) + 1
        data = hypothesis.tail + self._bytes[token] if self._stops and count > self._params.min_tokens else b""
        longer = Hypothesis(
            token_ids=(*hypothesis.token_ids, token),
            logprobs=(*hypothesis.logprobs, entries),
            cumulative_logprob=total,
            tail=data[-self._tail_bytes :] if self._tail_bytes else b"",
        )
        if token in self._stop_ids:
            is_named = token not in self._eos or token in self._params.stop_token_ids
            return self._ended(longer, FinishReason.STOP, token if is_named else None)
        if (found := self._stop_string(data)) is not None:
            return self._ended(longer, FinishReason.STOP, found)
        if count == self._max_num_tokens:
            return self._ended(longer, FinishReason.LENGTH, None)
        return longer

    def _stop_string(self, data: bytes) -> str | None:
        """The stop string that ``data`` holds, of several the one that ends first, of those the longest.

        No shorter text held any, so that the tail cannot hold a whole one.
        """
        ends = [(data.find(wanted) + len(wanted), -len(wanted), text) for text, wanted in self._stops if wanted in data]
        return min(ends)[2] if ends else None

    def _ended(self, hypothesis: Hypothesis, reason: FinishReason, stop_reason: int | str | None) -> Hypothesis:
        return msgspec.structs.replace(
            hypothesis, score=self._score(hypothesis), finish_reason=reason.value, stop_reason=stop_reason
        )

    def _score(self, hypothesis: Hypothesis) -> float:
        length: float = max(1, len(hypothesis.token_ids)) ** self._params.length_penalty
        return hypothesis.cumulative_logprob / length

    def _can_improve(self) -> bool:
        """Whether the likeliest live hypothesis, as it is, beats the worst that is kept."""
        if not self.live:
            return False
        if len(self.ended) < self._params.beam_width:
            return True
        return self._score(self.live[0]) > self.ended[-1].score
