"""The asynchronous face of an engine in its own process: submit a prompt, iterate over what comes.

Lives in the HTTP process (or any asyncio program); never imports torch. Owns the journal of running requests.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from quire.checkpoint.facts import ModelFacts
from quire.checkpoint.resolve import resolve
from quire.core.config import EngineConfig
from quire.core.errors import EngineDead, Overloaded, of_failure
from quire.core.keywords import engine_config
from quire.core.messages import Add, Done, EngineInfo, FromEngine, Step, ToEngine
from quire.core.outputs import OutputKind, RequestOutput
from quire.core.request import Request
from quire.core.sampling_params import SamplingParams
from quire.core.step import EngineStats, FinishReason, StepOutput
from quire.engine.assembler import Assembler, LiveSequence, Update
from quire.engine.client import EngineClient, EngineProcess
from quire.engine.control import EngineControl
from quire.engine.desk import Desk
from quire.engine.intake import Intake
from quire.engine.request_stream import RequestStream
from quire.text.chat import ChatTemplate
from quire.text.grammar.door import GrammarDoor
from quire.text.model_text import ModelText
from quire.text.tokenizer import Tokenizer

log = logging.getLogger("quire")
T = TypeVar("T")

_TEXT_THREADS = 2
_MAX_WAITING_GRAMMARS = 64
"""As many seconds, at the worst."""
_INLINE_TEXT_CHARS = 4096
"""Shorter prompts are tokenized on the loop: it takes less time than handing them to a thread."""


class Observer(Protocol):
    """Someone who counts: called on the loop, must be quick."""

    def on_step(self, step: StepOutput) -> None: ...

    def on_request_finished(self, output: RequestOutput, request: Request) -> None: ...


class AsyncLLM:
    """A running engine. ``await AsyncLLM.start(...)``; then ``submit`` or ``generate``; at last ``close``.

    ``default_params``: sampling defaults that come with the model. ``failure``: why the engine is down, or None.
    ``control`` pauses the engine, sends it to sleep, and the like.
    """

    @classmethod
    async def start(
        cls, model: str | None = None, *, config: EngineConfig | None = None, **settings: Any
    ) -> "AsyncLLM":
        """Start an engine by a model's name and settings as for LLM, or by a whole configuration."""
        config = config or engine_config(({"model": model} if model else {}) | settings)
        path = resolve(
            config.model.model,
            revision=config.model.revision,
            download_dir=config.model.download_dir,
            hf_token=config.model.hf_token,
        )
        return await cls.attach(config, path, EngineProcess(config.located(path)))

    @classmethod
    async def attach(cls, config: EngineConfig, path: Path, process: EngineProcess) -> "AsyncLLM":
        """Take over an engine process that is starting on the checkpoint at ``path``."""
        llm = cls(config, ModelText.load(path, config.model), process)
        try:
            llm._meet(await llm._client.ready())
        except BaseException:
            await llm.close()
            raise
        return llm

    def __init__(self, config: EngineConfig, text: ModelText, process: EngineProcess) -> None:
        self.config = config
        self.tokenizer: Tokenizer = text.tokenizer
        self.chat_template: ChatTemplate | None = text.chat_template
        self.default_params: dict[str, Any] = text.default_params
        self.dialects = text.dialects
        self.facts: ModelFacts = text.facts
        self.stats = EngineStats()
        self.failure: str | None = None
        self._is_ready = False
        self.eos_token_ids: tuple[int, ...] = text.eos_token_ids
        self._assembler = Assembler(text.tokenizer, text.eos_token_ids)
        self._streams: dict[int, RequestStream] = {}
        self._observers: list[Observer] = []
        self.control = EngineControl(self._send, self.abort_all)
        self._num_waiting_tokens: dict[int, int] = {}  # prompt lengths of requests that have not started
        self._threads = ThreadPoolExecutor(_TEXT_THREADS, thread_name_prefix="quire-text")
        self.grammar_desk = Desk("grammars", _MAX_WAITING_GRAMMARS)
        self._process = process
        self._client = EngineClient(process, self._receive, self._die)

    def _meet(self, info: EngineInfo) -> None:
        self._is_ready = True
        self.info = info
        if self.default_params:
            log.info("requests that do not say otherwise are sampled as the model's makers do: %s", self.default_params)
        self._intake = Intake(
            info,
            self.tokenizer,
            self.eos_token_ids,
            max_logprobs=self.config.model.max_logprobs,
            seed=self.config.model.seed,
            reasoning=self.dialects.reasoning,
        )
        self.grammars = GrammarDoor(self.tokenizer, self.eos_token_ids, info.vocab_size)

    async def submit(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        *,
        request_id: str = "",
        kind: OutputKind = OutputKind.DELTA,
        add_special_tokens: bool = True,
        priority: int = 0,
        cache_salt: str = "",
        grammar: str | None = None,
    ) -> RequestStream:
        """Validate a prompt and start generating.

        Raises InvalidRequest, PromptTooLong, Overloaded, Asleep or EngineDead before anything runs.
        """
        self._check_up()
        if isinstance(prompt, str):
            text: str | None = prompt
            if len(prompt) <= _INLINE_TEXT_CHARS:
                ids: Sequence[int] = self.tokenizer.encode(prompt, add_special_tokens)
            else:
                ids = await self.run_blocking(self.tokenizer.encode, prompt, add_special_tokens)
        else:
            text, ids = None, prompt
        if grammar is None and params.structured_outputs is not None:
            grammar = await self.grammar_desk.run(self.grammars.check, params.structured_outputs)
        request = self._intake.request(
            ids,
            params,
            request_id=request_id or uuid.uuid4().hex,
            priority=priority,
            cache_salt=cache_salt,
            grammar=grammar,
        )
        self._check_up()  # again: much may have happened while a long prompt was tokenized
        self._admit(request)
        stream = RequestStream(request, kind, self._abort, self._assembler.tap)
        self._client.send(Add(request))
        self._assembler.add(request, text, kind)
        self._streams[request.handle] = stream
        self._num_waiting_tokens[request.handle] = len(request.prompt)
        return stream

    async def generate(
        self,
        prompt: str | Sequence[int],
        sampling_params: SamplingParams | None = None,
        request_id: str = "",
        *,
        kind: OutputKind = OutputKind.CUMULATIVE,
        **options: Any,
    ) -> AsyncIterator[RequestOutput]:
        """Iterate over a prompt's RequestOutputs; leaving the loop early aborts the request."""
        params = sampling_params or SamplingParams(**self.default_params)
        stream = await self.submit(prompt, params, request_id=request_id, kind=kind, **options)
        try:
            async for output in stream:
                yield output
        finally:
            stream.abort()

    def watch(self, observer: Observer) -> None:
        """Tell ``observer`` of every step and of every request's end."""
        self._observers.append(observer)

    async def run_blocking(self, function: Callable[..., T], *args: Any) -> T:
        """Run text work on a small pool of threads, off the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    @property
    def engine_pid(self) -> int:
        """The engine's process."""
        return self._process.popen.pid

    @property
    def num_unfinished(self) -> int:
        return len(self._streams)

    def live_sequences(self) -> list[LiveSequence]:
        """What runs now, in the order in which it came."""
        return self._assembler.live_sequences()

    def abort_all(self) -> None:
        """End every running request with finish_reason abort."""
        for stream in list(self._streams.values()):
            self._abort(stream.request)

    async def close(self) -> None:
        """End the engine and its process; what was submitted fails, and nothing can be any more."""
        self.failure = self.failure or "The engine was closed."
        self._fail_all(self.failure)
        if self._is_ready:
            self.grammars.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.grammar_desk.close()
        await self._client.close()

    def _check_up(self) -> None:
        if self.failure is not None:
            raise EngineDead(self.failure)
        self.control.check_awake()

    def _send(self, message: ToEngine) -> None:
        if self.failure is not None:
            raise EngineDead(self.failure)
        self._client.send(message)

    def _admit(self, request: Request) -> None:
        limits = self.config.scheduler
        waiting, tokens = len(self._num_waiting_tokens), sum(self._num_waiting_tokens.values())
        if waiting + 1 > limits.max_num_queued_reqs:
            raise Overloaded(
                f"{waiting} requests are waiting, as many as may (--max-num-queued-reqs): try again later.",
                retry_after_s=self._patience(),
            )
        if waiting and tokens + len(request.prompt) > limits.max_num_queued_tokens:
            raise Overloaded(
                f"{tokens} prompt tokens are waiting; with this prompt's {len(request.prompt)} there would be more "
                f"than the {limits.max_num_queued_tokens} that may (--max-num-queued-tokens): try again later.",
                retry_after_s=self._patience(),
            )

    def _patience(self) -> float:
        """Seconds after which there may be room: a second for each full batch that is waiting, at most a minute."""
        return float(min(60, 1 + len(self._num_waiting_tokens) // max(1, self.info.max_num_seqs)))

    def _receive(self, message: FromEngine) -> None:
        match message:
            case Step(output):
                self._take(output)
            case Done():
                self.control.settle(message)
            case _:
                log.error("unexpected message from the engine: %s", type(message).__name__)

    def _take(self, step: StepOutput) -> None:
        if step.stats is not None:
            self.stats = step.stats
        for started in step.started:
            self._num_waiting_tokens.pop(started.handle, None)
        updates, cut = self._assembler.process(step)
        self._client.abort(cut)
        for observer in self._observers:
            observer.on_step(step)
        for update in updates:
            stream = self._streams.get(update.handle)
            if update.ended is not None:
                self._end(stream, update)
            elif stream is not None:
                stream.put(update.output)

    def _end(self, stream: RequestStream | None, update: Update) -> None:
        """Tell everyone who needs to know that a request is over."""
        failed = next((c for c in update.output.outputs if c.finish_reason == FinishReason.ERROR), None)
        if stream is not None and failed is not None:
            stream.fail(of_failure(failed.stop_reason))
        elif stream is not None:
            stream.put(update.output)
        self._forget(update.handle)
        self._tell_ended(update)

    def _abort(self, request: Request) -> None:
        update, handles = self._assembler.abort(request, FinishReason.ABORT, time.monotonic())
        self._client.abort(handles)
        if update is not None:
            self._end(self._streams.get(update.handle), update)

    def _tell_ended(self, update: Update) -> None:
        if update.ended is not None and update.total is not None:
            for observer in self._observers:
                observer.on_request_finished(update.total, update.ended)

    def _forget(self, handle: int) -> None:
        self._streams.pop(handle, None)
        self._num_waiting_tokens.pop(handle, None)

    def _die(self, reason: str) -> None:
        if self._is_ready:  # before that, whoever starts it hears the reason as an exception
            log.error("%s", reason)
        self.failure = reason
        self._fail_all(reason)

    def _fail_all(self, reason: str) -> None:
        for stream in list(self._streams.values()):
            stream.fail(EngineDead(reason))
            update, _ = self._assembler.abort(stream.request, FinishReason.ERROR, time.monotonic())
            if update is not None:
                self._tell_ended(update)
        self._streams.clear()
        self._num_waiting_tokens.clear()
        self.control.fail_all(reason)
