"""A fake engine over a byte tokenizer, behind the true one's door, and clients of the application in front of it.

The fake writes the alphabet: continuation i's token t is the letter (i + t) mod 26. It answers at once, or, when
``gate`` is closed, one token for each ``release()``. Where ``says`` is set it writes that instead, a character a token,
and stops by itself.
"""

import asyncio
import time
import types
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import httpx
import msgspec
import pytest

from quire.checkpoint.facts import ModelFacts
from quire.core.config import EngineConfig, ServerConfig
from quire.core.errors import InvalidRequest
from quire.core.messages import AWAKE, Done, EngineInfo, Pause, Resume, Sleep, WakeUp
from quire.core.outputs import CompletionOutput, Logprob, Logprobs, OutputKind, RequestMetrics, RequestOutput
from quire.core.request import Request
from quire.core.sampling_params import SamplingParams
from quire.core.step import EngineStats, Finished, FinishReason, Started, StepOutput
from quire.engine.assembler import LiveSequence
from quire.engine.continuation import Tap
from quire.engine.control import EngineControl
from quire.engine.intake import Intake
from quire.server.app import create_app
from quire.text.dialects.registry import choose
from quire.text.grammar.door import GrammarDoor

VOCAB = 260
BOS = 257
MAX_MODEL_LEN = 64
MAX_TEXT = 100_000


class ByteTokenizer:
    vocab_size = VOCAB
    num_stripped_spaces = 0
    bos_token_id = BOS

    def __init__(self) -> None:
        self.named: dict[str, int] = {}
        """Tokens of more than one byte, by their names."""
        self.roles = {"eos_token": "<256>"}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [BOS] * add_special_tokens + list(text.encode())

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return "".join("" if i > 255 and skip_special_tokens else self.token_text(i) for i in ids)

    def token_text(self, token: int) -> str:
        return chr(token) if token < 256 else f"<{token}>"

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else f"<{token}>".encode()

    bos_token = eos_token = None
    special_token_ids = frozenset(range(256, VOCAB))

    def added_tokens(self) -> dict[str, Any]:
        return {"256": {"content": "<256>", "special": True}}

    def byte_table(self, skip_special_tokens: bool, shown: frozenset[int] = frozenset()) -> dict[int, bytes]:
        return {token: self.token_bytes(token) if token < 256 else b"" for token in range(VOCAB)}

    def is_special(self, token: int) -> bool:
        return token > 255

    def token_to_id(self, token: str) -> int | None:
        return ord(token) if len(token) == 1 else self.named.get(token)

    def id_to_token(self, token: int) -> str:
        return self.token_text(token)


class Template:
    source = "{{ messages }} {{ tools }}"
    variables = frozenset(("messages", "tools", "add_generation_prompt"))

    def render(
        self,
        messages: list[dict[str, Any]],
        tools: Any = None,
        documents: Any = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Any = None,
    ) -> str:
        if any(m["content"] == "refuse me" for m in messages):
            raise InvalidRequest("The template refuses.", param="$.messages")
        text = "".join(f"{m['role'][0]}:{m['content']}|" for m in messages)
        text += "".join(f"[{tool['function']['name']}]" for tool in tools or [])
        return (
            text + ("a:" if add_generation_prompt else "") + "".join(f"{k}={v}" for k, v in (variables or {}).items())
        )


class FakeStream:
    def __init__(self, llm: "FakeLLM", request: Request, kind: OutputKind) -> None:
        self.llm, self.request, self.kind = llm, request, kind
        self.prompt_token_ids: list[int] = request.prompt.tolist()
        self.choices = [CompletionOutput(index=i, text="", token_ids=[]) for i in range(request.params.n)]
        self.metrics = RequestMetrics(arrival_s=time.monotonic())
        self.queue: asyncio.Queue[RequestOutput | Exception] = asyncio.Queue()
        self.ended = False
        self.tapped: Tap | None = None
        self.is_waited_for = False
        self.task = asyncio.ensure_future(self.produce())

    def __aiter__(self) -> "FakeStream":
        return self

    async def __anext__(self) -> RequestOutput:
        if self.ended and self.queue.empty():
            raise StopAsyncIteration
        self.is_waited_for = self.queue.empty() and bool(self.choices[0].token_ids)
        output = await self.queue.get()
        self.is_waited_for = False
        if isinstance(output, Exception):
            raise output
        return output

    def tap(self, tap: Tap) -> None:
        self.tapped = tap

    @property
    def is_one_text(self) -> bool:
        params = self.request.params
        has_logprobs = params.logprobs is not None or params.prompt_logprobs is not None
        return self.kind is OutputKind.DELTA and params.n == 1 and not has_logprobs

    def abort(self) -> None:
        if not self.ended:
            self.llm.aborted.append(self.request.request_id)
            self.task.cancel()
            self.finish(FinishReason.ABORT)

    def output(self, new: int) -> RequestOutput:
        choices = [
            CompletionOutput(
                index=c.index,
                text=c.text[-new:] if new else "",
                token_ids=c.token_ids[-new:] if new else [],
                logprobs=None if c.logprobs is None else (c.logprobs[-new:] if new else []),
                # Later continuations are likelier.
                cumulative_logprob=None if c.logprobs is None else (c.index - 1000.0) * len(c.token_ids),
                finish_reason=c.finish_reason,
                stop_reason=c.stop_reason,
            )
            for c in self.choices
        ]
        wants_prompt, named = self.request.params.prompt_logprobs, self.request.params.logprob_token_ids
        return RequestOutput(
            request_id=self.request.request_id,
            prompt=None,
            prompt_token_ids=self.prompt_token_ids,
            prompt_logprobs=None
            if wants_prompt is None
            else [None, *(self.llm.logprobs_of(t, wants_prompt, named) for t in self.prompt_token_ids[1:])],
            outputs=choices,
            finished=self.ended,
            metrics=self.metrics,
            num_cached_tokens=self.llm.num_cached_tokens,
        )

    def finish(self, reason: FinishReason) -> None:
        self.ended = True
        self.metrics.finished_s = time.monotonic()
        for choice in self.choices:
            choice.finish_reason = reason.value
            choice.stop_reason = self.llm.stop_reason
        self.queue.put_nowait(self.output(0 if self.kind is OutputKind.DELTA else MAX_TEXT))
        self.llm.forget(self, reason)

    async def produce(self) -> None:
        self.metrics.scheduled_s = time.monotonic()
        params = self.request.params
        self.llm.step(started=[Started(self.request.handle + c.index, 0, 0.0) for c in self.choices])
        if self.llm.says is not None:
            await self.say(self.llm.says)
            return
        for position in range(self.request.max_total_tokens - len(self.prompt_token_ids)):
            await self.llm.turn()
            if self.llm.breaks is not None:
                self.ended = True
                self.llm.streams.discard(self)
                self.queue.put_nowait(self.llm.breaks)
                return
            for choice in self.choices:
                token = ord("a") + (choice.index + position) % 26
                choice.token_ids = [*choice.token_ids, token]
                choice.text += chr(token)
                if params.logprobs is not None:
                    entry = self.llm.logprobs_of(token, params.logprobs, params.logprob_token_ids)
                    choice.logprobs = [*(choice.logprobs or []), entry]
            now = time.monotonic()
            self.metrics.first_token_s = self.metrics.first_token_s or now
            self.metrics.last_token_s = now
            self.llm.step(handles=[self.request.handle + c.index for c in self.choices], time_s=now)
            self.tell()
        self.finish(FinishReason.LENGTH)

    def tell(self) -> None:
        if self.tapped is not None and self.is_waited_for and self.queue.empty() and self.is_one_text:
            choice = self.choices[0]
            if self.tapped.take(choice.text[-1:], choice.token_ids[-1:]):
                self.llm.num_tapped += 1
                return
        if self.kind is not OutputKind.FINAL:
            self.queue.put_nowait(self.output(1 if self.kind is OutputKind.DELTA else MAX_TEXT))

    async def say(self, text: str) -> None:
        for char in text:
            await self.llm.turn()
            for choice in self.choices:
                choice.token_ids = [*choice.token_ids, ord(char) % 256]
                choice.text += char
                if self.request.params.logprobs is not None:
                    entry = self.llm.logprobs_of(ord(char) % 256, self.request.params.logprobs)
                    choice.logprobs = [*(choice.logprobs or []), entry]
            self.tell()
        self.finish(self.llm.ends)


class FakeLLM:
    def __init__(self) -> None:
        self.config = EngineConfig.of(model="org/fake")
        self.info = EngineInfo(
            model="org/fake",
            max_model_len=MAX_MODEL_LEN,
            max_num_seqs=8,
            max_num_batched_tokens=64,
            max_num_interleaved_tokens=64,
            vocab_size=VOCAB,
            block_size=16,
            num_blocks=32,
            dtype="float32",
            cache_config={"block_size": "16"},
        )
        self.tokenizer = ByteTokenizer()
        self.chat_template: Template | None = Template()
        self.grammars: GrammarDoor | None = None
        self.dialects = choose("hermes", "auto", Template.source)
        self.default_params: dict[str, Any] = {"temperature": 0.5}
        self.facts = ModelFacts(
            format="gguf",
            family="llama",
            quantization="Q4_K",
            num_parameters=134_515_008,
            num_bytes=91_000_000,
            dimensions={"hidden_size": 576, "max_position_embeddings": 8192},
        )
        self.stats = EngineStats()
        self.failure: str | None = None
        self.num_cached_tokens = 0
        self.num_tapped = 0
        self.eos_token_ids: tuple[int, ...] = ()
        self.says: str | None = None
        self.stop_reason: str | None = None
        self.ends = FinishReason.STOP
        """How what it says ends."""
        self.refuses: Exception | None = None
        """Raised by submit."""
        self.breaks: Exception | None = None
        """Raised by streams at their next token."""
        self.streams: set[FakeStream] = set()
        self.requests: list[Request] = []
        self.aborted: list[str] = []
        self.submitted = asyncio.Event()
        self.aborted_one = asyncio.Event()
        self.observers: list[Any] = []
        self.control = EngineControl(self.order, self.abort_all)
        self.orders: list[Any] = []
        self._is_paused, self._sleep_level = False, AWAKE
        self._gate: asyncio.Semaphore | None = None
        self._handle = 1

    async def submit(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        *,
        request_id: str,
        kind: OutputKind = OutputKind.DELTA,
        add_special_tokens: bool = True,
        priority: int = 0,
        cache_salt: str = "",
        grammar: str | None = None,
    ) -> FakeStream:
        self.control.check_awake()
        if self.refuses is not None:
            raise self.refuses
        ids = self.tokenizer.encode(prompt, add_special_tokens) if isinstance(prompt, str) else list(prompt)
        if grammar is None and params.structured_outputs is not None:
            assert self.grammars is not None
            grammar = self.grammars.check(params.structured_outputs)
        intake = Intake(self.info, self.tokenizer, (), max_logprobs=self.config.model.max_logprobs, seed=0)
        checked = intake.request(
            ids, params, request_id=request_id, priority=priority, cache_salt=cache_salt, grammar=grammar
        )
        request = msgspec.structs.replace(checked, handle=self._handle, params=params, seed=0)
        self._handle += params.n
        self.requests.append(request)
        stream = FakeStream(self, request, kind)
        self.streams.add(stream)
        self.submitted.set()
        return stream

    def order(self, message: Any) -> None:
        """Carry out an order, or say that it cannot be; the answer comes a moment later."""
        self.orders.append(message)
        error = kind = ""
        if isinstance(message, Resume) and self._sleep_level > 0:
            error, kind = "Asleep.", "Conflict"
        elif isinstance(message, Pause | Resume):
            self._is_paused = isinstance(message, Pause)
        elif isinstance(message, Sleep):
            self._is_paused, self._sleep_level = True, message.level
        elif isinstance(message, WakeUp) and message.tags != ["weights"]:
            self._is_paused, self._sleep_level = False, AWAKE
        done = Done(
            message.call,
            error,
            kind,
            num_held_blocks=len(self.streams),
            is_paused=self._is_paused,
            sleep_level=self._sleep_level,
        )
        asyncio.get_running_loop().call_soon(self.control.settle, done)

    def abort_all(self) -> None:
        for stream in list(self.streams):
            stream.abort()

    def live_sequences(self) -> list[LiveSequence]:
        found = [
            LiveSequence(
                stream.request.handle + choice.index, stream.request, len(choice.token_ids), "\n" in choice.text
            )
            for stream in self.streams
            for choice in stream.choices
            if stream.metrics.scheduled_s is not None
        ]
        return sorted(found, key=lambda sequence: sequence.handle)

    def close_gate(self) -> None:
        self._gate = asyncio.Semaphore(0)

    def release(self, count: int = 1) -> None:
        assert self._gate is not None
        for _ in range(count):
            self._gate.release()

    async def turn(self) -> None:
        await (self._gate.acquire() if self._gate is not None else asyncio.sleep(0))

    def logprobs_of(self, token: int, count: int, named: Sequence[int] = ()) -> Logprobs:
        """The chosen token is always the second likeliest; the likeliest is the one after it."""
        found = {token: Logprob(-1.5, 2, self.tokenizer.token_text(token))}
        ranked = [token + 1, token, *(token + 1 + k for k in range(1, count))][:count]
        for rank, other in enumerate(ranked, start=1):
            found.setdefault(other, Logprob(-0.75 * rank, rank, self.tokenizer.token_text(other)))
        for other in named:
            found.setdefault(other, Logprob(self.named_logprob(other), 100 + other, self.tokenizer.token_text(other)))
        return found

    def named_logprob(self, token: int) -> float:
        return -20.0 - token

    def watch(self, observer: Any) -> None:
        self.observers.append(observer)

    def step(self, handles: Sequence[int] = (), started: Sequence[Started] = (), time_s: float = 0.0) -> None:
        self.stats = EngineStats(
            num_running=len(self.streams),
            num_prompt_tokens=sum(len(r.prompt) for r in self.requests),
            prefix_queries=10,
            prefix_hits=4,
            kv_usage=0.25,
            step_tokens=len(handles),
        )
        step = StepOutput(
            handles=list(handles),
            token_ids=[0] * len(handles),
            time_s=time_s or time.monotonic(),
            started=list(started),
            stats=self.stats,
        )
        for observer in self.observers:
            observer.on_step(step)

    def forget(self, stream: FakeStream, reason: FinishReason) -> None:
        self.streams.discard(stream)
        finished = [Finished(stream.request.handle + c.index, reason) for c in stream.choices]
        self.stats = EngineStats(num_running=len(self.streams), prefix_queries=10, prefix_hits=4)
        total = stream.output(MAX_TEXT)
        for observer in self.observers:
            observer.on_step(
                StepOutput(
                    handles=[],
                    token_ids=[],
                    time_s=time.monotonic(),
                    finished=finished,
                )
            )
            observer.on_request_finished(total, stream.request)
        if reason is FinishReason.ABORT:
            self.aborted_one.set()

    async def run_blocking(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    @property
    def grammar_desk(self) -> Any:
        return types.SimpleNamespace(run=self.run_blocking)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def grammars() -> Iterator[GrammarDoor]:
    door = GrammarDoor(ByteTokenizer(), [VOCAB - 1])  # type: ignore[arg-type]
    yield door
    door.close()


@pytest.fixture
def llm(grammars: GrammarDoor) -> FakeLLM:
    llm = FakeLLM()
    llm.grammars = grammars
    return llm


@pytest.fixture
def bring_up(llm: FakeLLM) -> Callable[..., httpx.AsyncClient]:
    """``bring_up(**server settings, reasoning_parser=...)`` is a client of an application with those settings."""

    def start(base_url: str = "http://localhost", **settings: Any) -> httpx.AsyncClient:
        if reasoning := settings.pop("reasoning_parser", None):
            llm.dialects = choose("hermes", reasoning, Template.source)
        app = create_app(llm, ServerConfig(**settings), ["fake", "also-fake"])  # type: ignore[arg-type]
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base_url)

    return start


@pytest.fixture
async def client(bring_up: Callable[..., httpx.AsyncClient]) -> AsyncIterator[httpx.AsyncClient]:
    async with bring_up() as client:
        yield client


@pytest.fixture
def sampled(llm: FakeLLM) -> Callable[[], SamplingParams]:
    """The settings of the last request that reached the engine."""
    return lambda: llm.requests[-1].params
