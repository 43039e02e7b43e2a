"""What SGLang's ``/generate`` answers, whole or as a stream's events, each of which holds all there is so far."""

import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from msgspec import UNSET

from quire.core.outputs import CompletionOutput, Logprob, Logprobs, RequestOutput
from quire.core.step import FinishReason
from quire.server.answers.logprobs import finite_value, likeliest
from quire.server.answers.stops import matched_stop
from quire.server.faces import encode
from quire.server.generate import Asked
from quire.server.generation import Generation
from quire.server.schema.sglang import FinishedBy, Generated, LengthReached, MatchedStop, MetaInfo, Score, WasAborted

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer

Tops = list[list[Score] | None]


class _Scores:
    """The scores of one continuation's tokens; what has been shaped stays."""

    def __init__(self) -> None:
        self.chosen: list[Score] = []
        self.top: Tops = []
        self.named: Tops = []


class GenerateAnswer:
    """Shapes one answer. ``is_list``: it is a list, in the order of prompts and their continuations."""

    def __init__(self, asked: Sequence[Asked], is_list: bool, has_text: bool, tokenizer: "Tokenizer") -> None:
        self._asked = asked
        self._is_list = is_list
        self._has_text = has_text
        self._tokenizer = tokenizer
        self._began = time.monotonic()
        self._scores: dict[tuple[int, int], _Scores] = {}
        self._prompt_scores: dict[int, _Scores] = {}

    def whole(self, outputs: list[RequestOutput]) -> Generated | list[Generated]:
        found = [self._generated(p, output, choice) for p, output in enumerate(outputs) for choice in output.outputs]
        return found if self._is_list else found[0]

    async def events(self, generation: Generation) -> AsyncIterator[bytes]:
        """The stream's events, one bytes object for each step of the engine."""
        told: dict[tuple[int, int], tuple[int, str | None]] = {}
        async for p, output in generation.events():
            events: list[bytes] = []
            for choice in output.outputs:
                state = (len(choice.token_ids), choice.finish_reason)
                if told.get((p, choice.index)) == state:
                    continue  # another of its prompt's continuations went on
                told[p, choice.index] = state
                events.append(b"data: " + encode(self._generated(p, output, choice, is_event=True)) + b"\n\n")
            yield b"".join(events)

    def _generated(self, p: int, output: RequestOutput, choice: CompletionOutput, is_event: bool = False) -> Generated:
        asked = self._asked[p]
        params = asked.plan.params
        ids = [] if asked.is_hidden else list(choice.token_ids)
        rid = asked.plan.request_id if params.n == 1 else f"{asked.plan.request_id}_{choice.index}"
        is_over = choice.finish_reason is not None
        made = self._made(p, choice) if asked.wants_logprobs else None
        read = self._read(p, output) if asked.wants_logprobs else None
        has_top, has_named = asked.num_top > 0, bool(asked.named)
        return Generated(
            text="" if asked.is_hidden else choice.text,
            output_ids=ids,
            meta_info=MetaInfo(
                id=rid,
                finish_reason=self._finished_by(asked, choice) if is_over else None,
                prompt_tokens=len(output.prompt_token_ids),
                completion_tokens=len(ids),
                cached_tokens=output.num_cached_tokens or 0,
                e2e_latency=time.monotonic() - self._began if is_over else UNSET,
                input_token_logprobs=read.chosen if read else UNSET,
                output_token_logprobs=made.chosen if made else UNSET,
                input_top_logprobs=read.top if read and has_top else UNSET,
                output_top_logprobs=made.top if made and has_top else UNSET,
                input_token_ids_logprobs=read.named if read and has_named else UNSET,
                output_token_ids_logprobs=made.named if made and has_named else UNSET,
            ),
            index=p * params.n + choice.index if is_event and self._is_list else UNSET,
        )

    def _finished_by(self, asked: Asked, choice: CompletionOutput) -> FinishedBy:
        if choice.finish_reason == FinishReason.ABORT:
            return WasAborted()
        if asked.is_hidden:
            return LengthReached(0)
        if choice.finish_reason == FinishReason.LENGTH:
            return LengthReached(len(choice.token_ids))
        return MatchedStop(matched_stop(choice))

    def _made(self, p: int, choice: CompletionOutput) -> _Scores:
        """The scores of what was generated."""
        scores = self._scores.setdefault((p, choice.index), _Scores())
        if self._asked[p].is_hidden:
            # As SGLang does: tokens by name can be scored behind a prompt without generating anything.
            scores.named = [self._named(p, found) for found in choice.logprobs or ()]
            return scores
        done = len(scores.chosen)
        for token, found in zip(choice.token_ids[done:], (choice.logprobs or [])[done:], strict=True):
            self._add(scores, p, token, found)
        return scores

    def _read(self, p: int, output: RequestOutput) -> _Scores:
        """The prompt's scores from ``logprob_start`` on; the first of them is not told, whatever it is."""
        start, entries = self._asked[p].logprob_start, output.prompt_logprobs
        if start is None or entries is None:
            return _Scores()
        if p not in self._prompt_scores:
            scores = _Scores()
            for position, token in enumerate(output.prompt_token_ids[start:], start=start):
                found = entries[position] if position > start else None
                self._add(scores, p, token, found)
            self._prompt_scores[p] = scores
        return self._prompt_scores[p]

    def _add(self, scores: _Scores, p: int, token: int, found: Logprobs | None) -> None:
        scores.chosen.append(self._score(token, found[token] if found else None))
        top = likeliest(found or {}, self._asked[p].num_top)
        scores.top.append(None if found is None else [self._score(other, entry) for other, entry in top])
        scores.named.append(None if found is None else self._named(p, found))

    def _named(self, p: int, found: Logprobs) -> list[Score]:
        return [self._score(token, found[token]) for token in self._asked[p].named]

    def _score(self, token: int, entry: Logprob | None) -> Score:
        value = None if entry is None else finite_value(entry)
        return (value, token, self._tokenizer.token_text(token) if self._has_text else None)
