"""A beam search as one request: what comes of it, as an async iterator of a single output.

Lives on the client's side, over an engine that runs many. Each step submits the live hypotheses as prompts of their
own; the first one's prompt is understood at the door, as any other's is. Law: ended or aborted, nothing of it runs.
"""

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from quire.core.outputs import Logprobs, OutputKind, RequestMetrics, RequestOutput
from quire.core.sampling_params import BeamSearchParams
from quire.engine.beam_search import BeamSearch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quire.engine.async_llm import AsyncLLM
    from quire.engine.continuation import Tap
    from quire.engine.request_stream import RequestStream


class BeamStream:
    """The ``n`` best beams of a prompt, in a RequestOutput whose continuations they are. Made by ``begin``.

    Searches whether it is read or not, as every request runs.
    """

    @classmethod
    async def begin(
        cls,
        llm: "AsyncLLM",
        prompt: "str | Sequence[int]",
        params: BeamSearchParams,
        *,
        n: int,
        request_id: str,
        add_special_tokens: bool,
        priority: int,
        cache_salt: str,
        **truncation: Any,
    ) -> "BeamStream":
        """Validate a prompt and begin to search.

        ``truncation``: the fields of SamplingParams that cut a prompt. Raises what AsyncLLM.submit raises.
        """
        search = BeamSearch(params, llm.tokenizer, llm.eos_token_ids, max_logprobs=llm.config.model.max_logprobs)
        if truncation.get("truncate_prompt_tokens") == -1:
            truncation["truncate_prompt_tokens"] = max(1, llm.info.max_model_len - (params.max_tokens or 1))
        options: dict[str, Any] = {"kind": OutputKind.FINAL, "priority": priority, "cache_salt": cache_salt}
        first = await llm.submit(
            prompt,
            search.step_params.replace(**truncation),
            request_id=request_id,
            add_special_tokens=add_special_tokens,
            **options,
        )
        search.limit(llm.info.max_model_len - len(first.prompt_token_ids))
        return cls(llm, search, first, n, options)

    def __init__(
        self, llm: "AsyncLLM", search: BeamSearch, first: "RequestStream", n: int, options: dict[str, Any]
    ) -> None:
        self.request = first.request
        self.prompt_token_ids: list[int] = first.prompt_token_ids
        self._llm = llm
        self._search = search
        self._n = n
        self._options = options
        self._streams = [first]
        self._is_aborted = self._is_read = False
        self._task = asyncio.ensure_future(self._run())
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may never be read

    def __aiter__(self) -> "BeamStream":
        return self

    async def __anext__(self) -> RequestOutput:
        if self._is_read:
            raise StopAsyncIteration
        self._is_read = True
        return await asyncio.shield(self._task)

    def tap(self, tap: "Tap") -> None:
        """There is nothing to take: the only output is the last, which is always the reader's."""

    def abort(self) -> None:
        """Stop searching; a reader still gets what there is. Harmless when it has ended."""
        self._is_aborted = True
        for stream in self._streams:
            stream.abort()

    async def _run(self) -> RequestOutput:
        first: RequestOutput | None = None
        try:
            while True:
                outputs = [await _last(stream) for stream in self._streams]
                first = first or outputs[0]
                self._take([entries for output in outputs for entries in output.outputs[0].logprobs or ()])
                if self._search.is_over:
                    break
                await self._submit()
        finally:
            self.abort()
        return RequestOutput(
            request_id=self.request.request_id,
            prompt=None,
            prompt_token_ids=self.prompt_token_ids,
            outputs=self._search.outputs(self.prompt_token_ids, self._n),
            finished=True,
            metrics=_metrics(first, outputs[-1]),
            num_cached_tokens=first.num_cached_tokens,
        )

    def _take(self, found: list[Logprobs]) -> None:
        # An aborted step says nothing of some hypothesis, or nothing more is wanted.
        if self._is_aborted or len(found) < len(self._search.live):
            self._search.abandon()
        else:
            self._search.advance(found)

    async def _submit(self) -> None:
        self._streams = []
        for place, hypothesis in enumerate(self._search.live):
            step = len(hypothesis.token_ids)
            stream = await self._llm.submit(
                [*self.prompt_token_ids, *hypothesis.token_ids],
                self._search.step_params,
                request_id=f"{self.request.request_id}-{step}-{place}",
                **self._options,
            )
            self._streams.append(stream)
            if self._is_aborted:
                stream.abort()


def _metrics(first: RequestOutput, last: RequestOutput) -> RequestMetrics | None:
    """From the arrival of the first step to the end of the last."""
    if first.metrics is None or last.metrics is None:
        return None
    return msgspec.structs.replace(
        first.metrics, last_token_s=last.metrics.last_token_s, finished_s=last.metrics.finished_s
    )


async def _last(stream: "RequestStream") -> RequestOutput:
    last: RequestOutput | None = None
    async for output in stream:
        last = output
    assert last is not None, "a stream ends with an output"
    return last
