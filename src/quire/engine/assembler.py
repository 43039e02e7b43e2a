"""Tokens become text: turns the engine's steps into RequestOutputs, on the client's side.

Owns every running request's continuations. Stop *strings* and repetitions are found on this side; the sequence is then
reported finished at once and its handle listed for aborting in the engine.
"""

from collections.abc import Iterable
from itertools import chain, count
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from quire.core.outputs import Logprob, Logprobs, OutputKind, RequestMetrics, RequestOutput
from quire.core.request import Request
from quire.core.step import Finished, FinishReason, PromptLogprobs, StepOutput, TopLogprobs
from quire.engine.continuation import Continuation, Tap, Tapped

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer


class Update(msgspec.Struct, frozen=True):
    """What one step meant for one request."""

    handle: int
    output: RequestOutput
    ended: Request | None = None
    """Named when the request is over."""
    total: RequestOutput | None = None
    """Then also all of it, whatever ``output`` holds."""


class LiveSequence(msgspec.Struct, frozen=True):
    """A sequence that has left the queue and has not ended."""

    handle: int
    request: Request
    num_generated: int
    has_new_line: bool


class _Running:
    """One request on the client's side."""

    def __init__(self, request: Request, prompt: str | None, kind: OutputKind, tokenizer: "Tokenizer") -> None:
        has_logprobs = request.params.logprobs is not None or request.params.prompt_logprobs is not None
        self.is_one_text = kind is OutputKind.DELTA and request.params.n == 1 and not has_logprobs
        self.request = request
        self.prompt = prompt
        self.kind = kind
        self.prompt_ids: list[int] = request.prompt.tolist()
        self.continuations = [Continuation(request, i, tokenizer, self.prompt_ids) for i in range(request.params.n)]
        self.num_live = len(self.continuations)
        """Those that have not ended."""
        self.prompt_logprobs: list[Logprobs | None] | None = None if request.params.prompt_logprobs is None else [None]
        self.num_cached_tokens: int | None = None
        self.metrics = RequestMetrics(arrival_s=request.arrival_s)

    def output(self, kind: OutputKind) -> RequestOutput:
        """Of deltas, those of continuations that have news."""
        outputs = []
        for continuation in self.continuations:  # no comprehension: it is a call, and this is done for every token
            if continuation.has_news or kind is not OutputKind.DELTA:
                outputs.append(continuation.output(kind))
        return RequestOutput(
            request_id=self.request.request_id,
            prompt=self.prompt,
            prompt_token_ids=self.prompt_ids,
            prompt_logprobs=self.prompt_logprobs,
            outputs=outputs,
            finished=not self.num_live,
            metrics=self.metrics,
            num_cached_tokens=self.num_cached_tokens,
        )


class Assembler:
    """Every running request of one client."""

    def __init__(self, tokenizer: "Tokenizer", eos_token_ids: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._eos = frozenset(eos_token_ids)
        self._by_handle: dict[int, tuple[_Running, Continuation]] = {}
        self._tapped: dict[int, Tapped] = {}
        """By handle. What went there is not in the continuations' texts yet."""

    def add(self, request: Request, prompt: str | None, kind: OutputKind) -> None:
        running = _Running(request, prompt, kind, self._tokenizer)
        for continuation in running.continuations:
            self._by_handle[request.handle + continuation.index] = (running, continuation)

    def tap(self, handle: int, tap: Tap | None) -> None:
        """Let ``tap`` take what is only a text, in the place of Updates, from the second on and until it declines.

        None: from now on, Updates. Harmless where a request is not one text, told in deltas, or has ended.
        """
        if handle not in self._by_handle:
            return
        self._settle(handle)
        running, continuation = self._by_handle[handle]
        continuation.tap = tap if running.is_one_text and continuation.sent_tokens > 0 else None
        self._resume(handle, continuation)

    def __len__(self) -> int:
        return len(self._by_handle)

    def process(self, step: StepOutput) -> tuple[list[Update], list[int]]:
        """What the step means for each request it touched, and the handles that ended here and not in the engine."""
        touched: dict[_Running, None] = {}
        cut: list[int] = []
        for started in step.started:
            self._start(started.handle, started.num_cached_tokens, started.scheduled_s)
        for handle, pieces in step.prompt_logprobs.items():
            self._extend_prompt_logprobs(handle, pieces)
        for finished in step.finished:
            self._settle(finished.handle)
        ended = {finished.handle: finished for finished in step.finished}
        last_row = {handle: row for row, handle in enumerate(step.handles)} if ended else {}
        for row in self._untapped(step):
            handle, token = step.handles[row], step.token_ids[row]
            known = self._by_handle.get(handle)
            if known is None:
                continue  # its abort is on the way to the engine
            running, continuation = known
            if continuation.finish_reason is not None:
                continue
            if running.metrics.first_token_s is None:
                running.metrics.first_token_s = step.time_s
            running.metrics.last_token_s = step.time_s
            touched[running] = None
            if continuation.logprobs is not None and row in step.logprobs:
                self._add_logprobs(continuation, step.logprobs[row])
            end = ended.get(handle) if last_row.get(handle) == row else None
            hidden = end is not None and end.stop_token_id is not None
            shown = not hidden or continuation.params.include_stop_str_in_output
            if continuation.push(token, shown=shown, is_last=end is not None):
                running.num_live -= 1
                cut.append(handle)
        for finished in step.finished:
            if (whose := self._finish(finished)) is not None:
                touched[whose] = None
        updates = [self._update(running, step.time_s) for running in touched]
        return [update for update in updates if update is not None], [h for h in cut if h not in ended]

    def abort(self, request: Request, reason: FinishReason, time_s: float) -> tuple[Update | None, list[int]]:
        """End a request from this side: its last output, or None if it ended before, and the handles to abort."""
        handles = [request.handle + i for i in range(request.params.n)]
        known = [handle for handle in handles if handle in self._by_handle]
        if not known:
            return None, []
        live = [handle for handle in known if self._by_handle[handle][1].finish_reason is None]
        for handle in live:
            self._settle(handle)
            self._finish(Finished(handle, reason))
        return self._update(self._by_handle[known[0]][0], time_s), live

    def live_sequences(self) -> list[LiveSequence]:
        """Those that run now, in the order in which they came."""
        for handle in self._tapped:
            self._by_handle[handle][1].catch_up()
        return [
            LiveSequence(handle, running.request, len(continuation.token_ids), continuation.has_new_line)
            for handle, (running, continuation) in self._by_handle.items()
            if running.metrics.scheduled_s is not None and continuation.finish_reason is None
        ]

    def requests(self) -> list[Request]:
        """Every request that has not ended."""
        return list({running.request.handle: running.request for running, _ in self._by_handle.values()}.values())

    def _start(self, handle: int, num_cached_tokens: int, scheduled_s: float) -> None:
        if handle in self._by_handle:
            running, _ = self._by_handle[handle]
            if running.metrics.scheduled_s is None:
                running.metrics.scheduled_s = scheduled_s
                running.num_cached_tokens = num_cached_tokens

    def _finish(self, finished: Finished) -> _Running | None:
        """End a sequence; returns whose it is, or None if it had ended before."""
        if finished.handle not in self._by_handle:
            return None
        running, continuation = self._by_handle[finished.handle]
        if continuation.finish_reason is not None:
            return None  # a stop string ended it, and this is the engine's answer to our abort
        stop_id = finished.stop_token_id
        # An end-of-sequence id is the model's own way to stop and no reason to name, unless it was asked for.
        named = stop_id if stop_id not in self._eos or stop_id in continuation.params.stop_token_ids else None
        continuation.end(finished.reason, named)
        running.num_live -= 1
        if finished.reason is FinishReason.ERROR:
            continuation.stop_reason = finished.error
        return running

    def _update(self, running: _Running, time_s: float) -> Update | None:
        handle = running.request.handle
        if running.num_live:
            if running.kind is OutputKind.FINAL:
                return None
            continuation = running.continuations[0]
            if not continuation.offer():
                return Update(handle, running.output(running.kind))
            self._resume(handle, continuation)
            return None
        running.metrics.finished_s = time_s
        for i in range(running.request.params.n):
            del self._by_handle[handle + i]
        output = running.output(running.kind)
        return Update(handle, output, running.request, running.output(OutputKind.CUMULATIVE))

    def _untapped(self, step: StepOutput) -> list[int]:
        """Give taps what they take; the rows of the rest."""
        rows = []
        for row, (handle, token) in enumerate(zip(step.handles, step.token_ids, strict=True)):
            tapped = self._tapped.get(handle)
            if tapped is None:
                rows.append(row)
                continue
            try:
                is_taken = tapped.tap.take(tapped.table[token].decode(), (token,))
            except UnicodeDecodeError:  # a part of a character
                is_taken = False
            if is_taken:
                tapped.token_ids.append(token)
                tapped.last_token_s = step.time_s
            else:
                self._settle(handle)
                rows.append(row)
        return rows

    def _resume(self, handle: int, continuation: Continuation) -> None:
        """Let its tokens go to its tap, if there is one and nothing else has to see them."""
        tapped = continuation.tapped()
        if tapped is not None:
            self._tapped[handle] = tapped

    def _settle(self, handle: int) -> None:
        """Its tokens go to its tap no longer."""
        tapped = self._tapped.pop(handle, None)
        if tapped is not None:
            running, continuation = self._by_handle[handle]
            continuation.catch_up()
            running.metrics.last_token_s = tapped.last_token_s or running.metrics.last_token_s

    def _add_logprobs(self, continuation: Continuation, top: TopLogprobs) -> None:
        assert continuation.logprobs is not None
        continuation.logprobs.append(self._logprobs(top))
        continuation.cumulative_logprob += float(top.logprobs[0])

    def _extend_prompt_logprobs(self, handle: int, piece: PromptLogprobs) -> None:
        if handle in self._by_handle:
            running, continuation = self._by_handle[handle]
            if running.prompt_logprobs is not None and continuation.index == 0:
                known = len(running.prompt_logprobs) - piece.first
                running.prompt_logprobs.extend(self._logprobs(top) for top in piece.entries[known:])

    def _logprobs(self, top: TopLogprobs) -> Logprobs:
        ids: list[int] = top.token_ids.tolist()
        values: list[float] = top.logprobs.astype(np.float64).tolist()
        text = self._tokenizer.token_text
        found: Logprobs = {}
        for rank, token, value in zip(chain(top.ranks, count(1)), ids, values, strict=False):
            if token not in found:
                found[token] = Logprob(value, rank, text(token))
        return found
