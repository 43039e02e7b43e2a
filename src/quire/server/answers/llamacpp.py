"""What llama.cpp's clients read: completions of one or several prompts, whole or as a stream's events.

Answer ``prompt index * n + continuation index``. A stream's last event of each is a whole completion without its text.
"""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from quire.core.outputs import CompletionOutput, Logprob, Logprobs, RequestMetrics, RequestOutput
from quire.core.sampling_params import SamplingParams
from quire.core.step import FinishReason
from quire.server.answers.indentation import IndentGuard
from quire.server.answers.logprobs import finite_value, likeliest
from quire.server.faces import encode
from quire.server.generation import Generation
from quire.server.schema.llamacpp import (
    LlamaCppChunk,
    LlamaCppCompletion,
    LlamaCppLogprob,
    LlamaCppOptions,
    LlamaCppToken,
    Timings,
)

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer


class _Progress:
    """One answer so far."""

    def __init__(self, n_indent: int) -> None:
        self.guard = IndentGuard(n_indent) if n_indent else None
        self.pieces: list[str] = []
        self.token_ids: list[int] = []
        self.probabilities: list[LlamaCppToken] = []
        self.has_new_line = False
        self.first_at: float | None = None
        self.stop_type: str | None = None
        self.stopping_word = ""


class LlamaCppAnswer:
    """Shapes one answer. ``model``: the name to say; ``settings``: how tokens are chosen, as the answer says it.

    ``shows_nothing``: only the prompt was wanted in the cache, and the one token that was made is not told of.
    """

    def __init__(
        self,
        body: LlamaCppOptions,
        params: SamplingParams,
        tokenizer: "Tokenizer",
        *,
        model: str,
        settings: Mapping[str, Any],
        max_model_len: int,
        shows_nothing: bool,
    ) -> None:
        self._body = body
        self._n = params.n
        self._max_tokens = params.max_tokens
        self._max_model_len = max_model_len
        self._tokenizer = tokenizer
        self._model = model
        self._settings = dict(settings)
        self._shows_nothing = shows_nothing
        self._progress: dict[int, _Progress] = {}

    @property
    def is_watched(self) -> bool:
        """The text or the time may end it, so it must be looked at as it comes."""
        return self._body.n_indent > 0 or self._body.t_max_predict_ms > 0

    async def whole(self, generation: Generation, prompts: Sequence[str]) -> Any:
        """The one answer, or a list of all; ``prompts``: their texts."""
        ended = [last async for _, last in self._told(generation, prompts) if last is not None]
        ended.sort(key=lambda one: one.index)
        shown = [self._selected(one) for one in ended]
        return shown[0] if len(shown) == 1 else shown

    async def events(self, generation: Generation, prompts: Sequence[str]) -> AsyncIterator[bytes]:
        """The stream's, as they come."""
        async for chunk, last in self._told(generation, prompts):
            data = b""
            if chunk.content or chunk.tokens:
                data += b"data: " + encode(chunk) + b"\n\n"
            if last is not None:
                brief = msgspec.structs.replace(last, content="", tokens=[], completion_probabilities=UNSET)
                data += b"data: " + encode(self._selected(brief)) + b"\n\n"
            yield data

    async def _told(
        self, generation: Generation, prompts: Sequence[str]
    ) -> AsyncIterator[tuple[LlamaCppChunk, LlamaCppCompletion | None]]:
        """What each step says of each answer: what is new, and the whole when it has ended."""
        async for p, output in generation.events():
            for choice in output.outputs:
                index = p * self._n + choice.index
                progress = self._progress.setdefault(index, _Progress(self._body.n_indent))
                if progress.stop_type is not None:
                    continue  # it was ended here, and this is the engine's answer
                chunk = self._take(index, progress, choice, output)
                last = None
                if progress.stop_type is not None:
                    last = self._completion(index, progress, output, prompts[p])
                    if choice.finish_reason is None:
                        generation.streams[p].abort()
                yield chunk, last

    def _take(self, index: int, progress: _Progress, choice: CompletionOutput, output: RequestOutput) -> LlamaCppChunk:
        text, ids = ("", []) if self._shows_nothing else (choice.text, list(choice.token_ids))
        probabilities = [] if self._shows_nothing else self._probabilities(ids, choice.logprobs)
        if choice.finish_reason is not None:
            progress.stop_type, progress.stopping_word = _stop(choice)
        if progress.guard is not None:
            text, is_over = progress.guard.push(text)
            if is_over:
                progress.stop_type, progress.stopping_word = "limit", ""
        progress.pieces.append(text)
        progress.token_ids += ids
        progress.probabilities += probabilities
        progress.has_new_line = progress.has_new_line or "\n" in text
        if ids and progress.first_at is None:
            progress.first_at = time.monotonic()
        if progress.stop_type is None and self._is_late(progress):
            progress.stop_type = "limit"
        return LlamaCppChunk(
            index=index,
            content=text,
            tokens=ids,
            tokens_predicted=len(progress.token_ids),
            tokens_evaluated=len(output.prompt_token_ids),
            timings=self._timings(progress, output) if self._body.timings_per_token else UNSET,
            completion_probabilities=probabilities if self._body.n_probs else UNSET,
        )

    def _is_late(self, progress: _Progress) -> bool:
        limit_ms = self._body.t_max_predict_ms
        if not limit_ms or progress.first_at is None or not progress.has_new_line:
            return False
        return (time.monotonic() - progress.first_at) * 1000 > limit_ms

    def _completion(self, index: int, progress: _Progress, output: RequestOutput, prompt: str) -> LlamaCppCompletion:
        num_prompt, num_made = len(output.prompt_token_ids), len(progress.token_ids)
        probabilities: list[LlamaCppToken] | UnsetType = progress.probabilities if self._body.n_probs else UNSET
        return LlamaCppCompletion(
            index=index,
            content="".join(progress.pieces),
            tokens=progress.token_ids if self._body.return_tokens else [],
            model=self._model,
            tokens_predicted=num_made,
            tokens_evaluated=num_prompt,
            generation_settings=self._settings,
            prompt=prompt,
            has_new_line=progress.has_new_line,
            truncated=num_prompt + num_made >= self._max_model_len and num_made != self._max_tokens,
            stop_type=progress.stop_type or "limit",
            stopping_word=progress.stopping_word,
            tokens_cached=num_prompt + max(0, num_made - 1),
            timings=self._timings(progress, output),
            completion_probabilities=probabilities,
        )

    def _timings(self, progress: _Progress, output: RequestOutput) -> Timings:
        cached = output.num_cached_tokens or 0
        return timings(cached, len(output.prompt_token_ids) - cached, len(progress.token_ids), output.metrics)

    def _probabilities(self, ids: Sequence[int], entries: Sequence[Logprobs] | None) -> list[LlamaCppToken]:
        count = self._body.n_probs
        if not count:
            return []
        told = []
        for token, found in zip(ids, entries or (), strict=True):
            chosen = self._logprob(token, found[token])
            told.append(
                LlamaCppToken(
                    id=token,
                    token=chosen.token,
                    bytes=chosen.bytes,
                    logprob=chosen.logprob,
                    top_logprobs=[self._logprob(other, entry) for other, entry in likeliest(found, count)],
                )
            )
        return told

    def _logprob(self, token: int, entry: Logprob) -> LlamaCppLogprob:
        data = self._tokenizer.token_bytes(token)
        return LlamaCppLogprob(
            id=token, token=data.decode("utf-8", "replace"), bytes=list(data), logprob=finite_value(entry)
        )

    def _selected(self, completion: LlamaCppCompletion) -> Any:
        """The fields that were asked for, under the paths that name them; those that are not there are left out."""
        if not self._body.response_fields:
            return completion
        whole = msgspec.to_builtins(completion)
        selected = {}
        for path in self._body.response_fields:
            value = whole
            for name in path.split("/"):
                value = value.get(name, UNSET) if isinstance(value, dict) else UNSET
            if value is not UNSET:
                selected[path] = value
        return selected


def timings(num_cached: int, num_computed: int, num_made: int, metrics: RequestMetrics | None) -> Timings:
    """How long the prompt and the answer took; all zero where that is not known.

    The first token comes with the prompt's last step, so what is told of a token is that of those behind it.
    """
    started = metrics.scheduled_s if metrics is not None else None
    first = metrics.first_token_s if metrics is not None else None
    last = metrics.last_token_s if metrics is not None else None
    prompt_ms = 1000 * (first - started) if first is not None and started is not None else 0.0
    made_ms = 1000 * (last - first) if last is not None and first is not None else 0.0
    num_steps = max(0, num_made - 1)
    return Timings(
        cache_n=num_cached,
        prompt_n=num_computed,
        prompt_ms=prompt_ms,
        prompt_per_token_ms=prompt_ms / num_computed if num_computed else 0.0,
        prompt_per_second=1000 * num_computed / prompt_ms if prompt_ms > 0 else 0.0,
        predicted_n=num_made,
        predicted_ms=made_ms,
        predicted_per_token_ms=made_ms / num_steps if num_steps else 0.0,
        predicted_per_second=1000 * num_steps / made_ms if made_ms > 0 else 0.0,
    )


def _stop(choice: CompletionOutput) -> tuple[str, str]:
    """Why it ended in llama.cpp's words, and the word that did it."""
    if choice.finish_reason != FinishReason.STOP:
        return "limit", ""
    return ("word", choice.stop_reason) if isinstance(choice.stop_reason, str) else ("eos", "")
