"""Completions of one or many prompts, whole or as a stream's chunks.

Choice ``prompt index * n + continuation index``. With echo, a choice begins with its prompt; with ``max_tokens: 0`` it
is the prompt alone, scored.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from quire.core.outputs import CompletionOutput, Logprobs, RequestMetrics, RequestOutput
from quire.server.answers.best import best
from quire.server.answers.logprobs import LogprobShaper, finite
from quire.server.answers.metrics import metrics_of
from quire.server.answers.stops import matched_stop
from quire.server.faces import encode
from quire.server.generation import Generation
from quire.server.schema.common import Usage
from quire.server.schema.completion import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    Prompt,
)
from quire.server.short_way import ShortWay, TextTap
from quire.server.streaming import Frames

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer


class CompletionAnswer:
    """Shapes one answer. ``heading`` is what every object of it says: id, created, model, fingerprint.

    ``tells_metrics``: how long it took, where it is one reply.
    """

    def __init__(
        self,
        body: CompletionRequest,
        heading: dict[str, Any],
        tokenizer: "Tokenizer",
        prompts: Sequence[Prompt],
        tells_metrics: bool,
    ) -> None:
        self._body = body
        self._heading = heading
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._scores_only = body.max_tokens == 0
        self._tells_metrics = tells_metrics and len(prompts) == 1 and (body.best_of or body.n) == 1
        self._logprobs = LogprobShaper(tokenizer, body.return_tokens_as_token_ids)
        self._tier: str | UnsetType = UNSET if body.service_tier is None else "default"

    def whole(self, outputs: list[RequestOutput]) -> Completion:
        """``outputs``: one for each prompt, of all the continuations that were made."""
        choices = [
            self._choice(p, output, choice, self._echoed(p, output))
            for p, output in enumerate(outputs)
            for choice in best(output, self._body.n).outputs
        ]
        usage = Usage.of(outputs)
        if self._scores_only:
            usage = Usage.count(usage.prompt_tokens, 0, usage.prompt_tokens_details.cached_tokens)
        return Completion(
            id=self._heading["id"],
            created=self._heading["created"],
            model=self._heading["model"],
            system_fingerprint=self._heading["fingerprint"],
            choices=choices,
            usage=usage,
            service_tier=self._tier,
            **(metrics_of(outputs[0].metrics, usage.completion_tokens) if self._tells_metrics else {}),
        )

    def chunks(self, generation: Generation) -> "CompletionStream":
        """The stream's events, one bytes object for each step of the engine."""
        frames = Frames(
            object="text_completion",
            has_usage=self._body.stream_options.include_usage,
            tier=self._tier,
            **self._heading,
        )
        return CompletionStream(self._body, generation, frames, self._scores_only, self._shown, self._tells_metrics)

    def _shown(
        self, p: int, output: RequestOutput, choice: CompletionOutput, offsets: dict[int, int]
    ) -> CompletionChoice | None:
        """What one step says of one continuation, if anything. ``offsets``: by choice, where its next text begins."""
        is_first = p * self._body.n + choice.index not in offsets
        shaped = self._choice(p, output, choice, self._echoed(p, output) if is_first else "", offsets)
        says_something = is_first or shaped.finish_reason or shaped.text or shaped.logprobs or shaped.token_ids
        return shaped if says_something else None

    def _choice(
        self,
        prompt_index: int,
        output: RequestOutput,
        choice: CompletionOutput,
        echoed: str,
        offsets: dict[int, int] | None = None,
    ) -> CompletionChoice:
        """``offsets`` is kept between a stream's chunks: a choice that is not in it begins here.

        What was not asked for is null in a whole answer, and left out of chunks.
        """
        absent = None if offsets is None else UNSET
        offsets = {} if offsets is None else offsets
        index = prompt_index * self._body.n + choice.index
        is_first = index not in offsets
        logprobs, offsets[index] = self._logprobs_of(output, choice, is_first, offsets.get(index, 0))
        wants_ids = self._body.return_token_ids
        has_prompt_logprobs = self._body.prompt_logprobs is not None and output.prompt_logprobs is not None
        ended_by = UNSET if choice.finish_reason is None else None if self._scores_only else matched_stop(choice)
        return CompletionChoice(
            index=index,
            text=echoed if self._scores_only else echoed + choice.text,
            logprobs=logprobs,
            finish_reason="length" if self._scores_only and choice.finish_reason else choice.finish_reason,
            stop_reason=None if self._scores_only else choice.stop_reason,
            matched_stop=ended_by,
            token_ids=([] if self._scores_only else list(choice.token_ids)) if wants_ids else absent,
            prompt_token_ids=output.prompt_token_ids if wants_ids and is_first else absent,
            prompt_text=self._prompt_text(prompt_index, output)
            if self._body.return_prompt_text and is_first
            else UNSET,
            prompt_logprobs=finite(output.prompt_logprobs or []) if has_prompt_logprobs else absent,
        )

    def _echoed(self, prompt_index: int, output: RequestOutput) -> str:
        return self._prompt_text(prompt_index, output) if self._body.echo else ""

    def _prompt_text(self, prompt_index: int, output: RequestOutput) -> str:
        """As much of it as the model saw."""
        prompt = self._prompts[prompt_index]
        if isinstance(prompt, str) and self._body.truncate_prompt_tokens is None:
            return prompt
        return self._tokenizer.decode(output.prompt_token_ids, False)

    def _logprobs_of(
        self, output: RequestOutput, choice: CompletionOutput, is_first: bool, offset: int
    ) -> tuple[CompletionLogprobs | None, int]:
        """And where the next token's text begins."""
        if self._body.logprobs is None:
            return None, 0
        ids: list[int] = [] if self._scores_only else list(choice.token_ids)
        entries: list[Logprobs | None] = [] if self._scores_only else [*(choice.logprobs or [])]
        if self._body.echo and is_first:
            ids = output.prompt_token_ids + ids
            entries = [*(output.prompt_logprobs or []), *entries]
        return self._logprobs.completion(ids, entries, offset)


class CompletionStream:
    """The events of one streamed answer, to one prompt or many."""

    def __init__(
        self,
        body: CompletionRequest,
        generation: Generation,
        frames: Frames,
        scores_only: bool,
        shown: Callable[[int, RequestOutput, CompletionOutput, dict[int, int]], CompletionChoice | None],
        tells_metrics: bool,
    ) -> None:
        self._n = body.n
        self._options = body.stream_options
        self._generation = generation
        self._frames = frames
        self._counts_tokens = not scores_only
        self._shown = shown
        self._tells_metrics = tells_metrics
        self._times: RequestMetrics | None = None
        self._num_prompt_tokens = sum(len(stream.prompt_token_ids) for stream in generation.streams)
        self._num_tokens = 0
        self._offsets: dict[int, int] = {}
        self._around: dict[int, tuple[bytes, bytes]] = {}
        """Of choices that have begun, if their texts are all there is to tell: what these stand between."""
        self._cached: dict[int, int] = {}  # by prompt
        self._way: ShortWay | None = None
        self._tap: TextTap | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for p, output in self._generation.events():
            yield self._event(p, output)
        if self._options.include_usage:
            usage = self._usage
            times = metrics_of(self._times, usage.completion_tokens) if self._tells_metrics else None
            yield self._frames.chunk([], usage, times)

    def tap(self, way: ShortWay) -> None:
        """See Tappable.tap."""
        self._way = way

    @property
    def _usage(self) -> Usage:
        num_tokens = self._num_tokens + (self._tap.num_tokens if self._tap else 0)
        return Usage.count(self._num_prompt_tokens, num_tokens, sum(self._cached.values()))

    def _event(self, p: int, output: RequestOutput) -> bytes:
        self._cached[p] = output.num_cached_tokens or 0
        self._times = output.metrics
        if self._counts_tokens:
            for choice in output.outputs:
                self._num_tokens += len(choice.token_ids)
        usage = self._usage if self._options.tells_usage_throughout else None
        events: list[bytes] = []
        for choice in output.outputs:
            around = self._around.get(p * self._n + choice.index)
            if around is None or choice.finish_reason is not None:
                events.append(self._shaped(p, output, choice, usage))
            elif choice.text:
                events += around[0], encode(choice.text), around[1]
        return b"".join(events)

    def _shaped(self, p: int, output: RequestOutput, choice: CompletionOutput, usage: Usage | None) -> bytes:
        shown = self._shown(p, output, choice, self._offsets)
        if shown is None:
            return b""
        if usage is None and shown == _said(shown.index, shown.text):
            self._around[shown.index] = around = self._frames.around(lambda text: _said(shown.index, text))
            if self._way is not None and self._tap is None:
                self._tap = TextTap(self._way, around)
                self._generation.tap(self._tap)
        return self._frames.chunk([shown], usage)


def _said(index: int, text: str) -> CompletionChoice:
    """What a step says of a continuation that goes on, where nothing but its text was asked for."""
    return CompletionChoice(index=index, text=text, logprobs=None, finish_reason=None)
