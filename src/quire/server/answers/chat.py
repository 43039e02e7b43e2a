"""A conversation's answer, whole or as a stream's chunks.

A stream: for each continuation a chunk with the role, chunks with text, reasoning or pieces of calls, a chunk with the
finish reason; then, if asked for, one without choices that holds the usage.
"""

import uuid
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from quire.core.outputs import CompletionOutput
from quire.server.answers.llamacpp import timings
from quire.server.answers.logprobs import LogprobShaper, finite
from quire.server.answers.metrics import metrics_of
from quire.server.answers.stops import matched_stop
from quire.server.exchange import Answered, Exchange, Piece
from quire.server.faces import encode
from quire.server.schema.chat import (
    CalledFunction,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionRequest,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    FunctionDelta,
    ToolCall,
    ToolCallDelta,
)
from quire.server.schema.common import Usage
from quire.server.schema.llamacpp import Timings
from quire.server.short_way import ShortWay
from quire.server.streaming import Frames
from quire.text.dialects.events import CallArguments, CallBegun, Content, Event, Reasoning

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer


class ChatAnswer:
    """Shapes one answer. ``heading`` is what every object of it says: id, created, model, fingerprint.

    ``echoed``: text of the conversation's last message, which the answer begins with when that was asked for.
    ``tells_metrics``: how long it took, where it is one reply.
    """

    def __init__(
        self,
        body: ChatCompletionRequest,
        heading: dict[str, Any],
        tokenizer: "Tokenizer",
        role: str,
        echoed: str,
        tells_metrics: bool,
    ) -> None:
        self._body = body
        self._heading = heading
        self._role = role
        self._echoed = echoed
        self._tells_metrics = tells_metrics and body.n == 1
        self._logprobs = LogprobShaper(tokenizer, body.return_tokens_as_token_ids)
        self._tier: str | UnsetType = UNSET if body.service_tier is None else "default"

    async def whole(self, exchange: Exchange) -> ChatCompletion:
        output, answered = await exchange.finals()
        return ChatCompletion(
            id=self._heading["id"],
            created=self._heading["created"],
            model=self._heading["model"],
            system_fingerprint=self._heading["fingerprint"],
            choices=[self._choice(one) for one in answered],
            usage=exchange.usage,
            service_tier=self._tier,
            prompt_logprobs=None if output.prompt_logprobs is None else finite(output.prompt_logprobs),
            prompt_token_ids=output.prompt_token_ids if self._body.return_token_ids else None,
            prompt_text=exchange.prompt if self._body.return_prompt_text else UNSET,
            **self._times(exchange),
        )

    def _choice(self, answered: Answered) -> ChatChoice:
        choice, reply = answered.choice, answered.reply
        text = self._echoed + reply.content
        reasoning = reply.reasoning if reply.reasoning is not None and self._body.include_reasoning else UNSET
        calls = [
            ToolCall(id=call.id or new_call_id(), function=CalledFunction(call.name, call.arguments))
            for call in reply.calls
        ]
        return ChatChoice(
            index=choice.index,
            message=ChatMessage(
                role=self._role,
                content=None if calls and not text else text,
                tool_calls=calls or UNSET,
                reasoning=reasoning,
                reasoning_content=reasoning,
            ),
            logprobs=self._logprobs_of(choice),
            finish_reason=answered.finish_reason,
            stop_reason=choice.stop_reason,
            matched_stop=matched_stop(choice),
            token_ids=list(choice.token_ids) if self._body.return_token_ids else None,
        )

    def chunks(self, exchange: Exchange) -> "ChatStream":
        """The stream's events, one bytes object for each step of the engine."""
        frames = Frames(
            object="chat.completion.chunk",
            has_usage=self._body.stream_options.include_usage,
            tier=self._tier,
            **self._heading,
        )
        first = ChatDelta(self._role, self._echoed)
        return ChatStream(self._body, exchange, frames, first, self._prompt(exchange), self._chunk_choices, self._times)

    def _times(self, exchange: Exchange) -> dict[str, Any]:
        """How long an answer that is over took, in the words that were asked for."""
        told: dict[str, Any] = {}
        if self._tells_metrics:
            told |= metrics_of(exchange.metrics, exchange.usage.completion_tokens)
        if self._body.timings_per_token:
            told["timings"] = _timings(exchange)
        return told

    def _prompt(self, exchange: Exchange) -> dict[str, Any]:
        """What a stream's first chunk says of the prompt."""
        wanted: dict[str, Any] = {}
        if self._body.return_token_ids:
            wanted["prompt_token_ids"] = exchange.prompt_token_ids
        if self._body.return_prompt_text:
            wanted["prompt_text"] = exchange.prompt
        return wanted

    def _chunk_choices(self, piece: Piece) -> list[ChatChunkChoice]:
        """What one step of one continuation says: its deltas, if there are any, and its end, if it came."""
        choice = piece.choice
        deltas = [delta for event in piece.events if (delta := self._delta(event)) is not None]
        # Log probabilities and ids are the step's: they go with the first thing that it says.
        wants_tokens = self._body.return_token_ids or choice.logprobs is not None
        if not deltas and wants_tokens and choice.token_ids:
            deltas = [ChatDelta(content="")]
        chunks = [ChatChunkChoice(choice.index, delta) for delta in deltas]
        if chunks and wants_tokens:
            chunks[0] = ChatChunkChoice(
                choice.index,
                deltas[0],
                self._logprobs_of(choice),
                token_ids=list(choice.token_ids) if self._body.return_token_ids else UNSET,
            )
        if piece.finish_reason is not None:
            end = ChatChunkChoice(
                choice.index,
                ChatDelta(),
                finish_reason=piece.finish_reason,
                stop_reason=choice.stop_reason,
                matched_stop=matched_stop(choice),
            )
            if chunks and self._body.stream_options.tells_usage_throughout:
                # Each chunk is to tell of more tokens than the one before: the end has none of its own.
                chunks[-1] = msgspec.structs.replace(
                    chunks[-1],
                    finish_reason=end.finish_reason,
                    stop_reason=end.stop_reason,
                    matched_stop=end.matched_stop,
                )
            else:
                chunks.append(end)
        return chunks

    def _delta(self, event: Event) -> ChatDelta | None:
        match event:
            case Content(text):
                return ChatDelta(content=text)
            case Reasoning(text):
                return ChatDelta(reasoning=text, reasoning_content=text) if self._body.include_reasoning else None
            case CallBegun(index, name, id):
                begun = ToolCallDelta(
                    index=index, id=id or new_call_id(), type="function", function=FunctionDelta(name, "")
                )
                return ChatDelta(tool_calls=[begun])
            case CallArguments(index, text):
                return ChatDelta(tool_calls=[ToolCallDelta(index=index, function=FunctionDelta(arguments=text))])

    def _logprobs_of(self, choice: CompletionOutput) -> ChatLogprobs | None:
        if choice.logprobs is None:
            return None
        num_top = None if self._body.logprob_token_ids else self._body.top_logprobs or 0
        return self._logprobs.chat(choice.token_ids, choice.logprobs, num_top)


class ChatStream:
    """The events of one streamed answer."""

    def __init__(
        self,
        body: ChatCompletionRequest,
        exchange: Exchange,
        frames: Frames,
        first: ChatDelta,
        prompt: dict[str, Any],
        choices_of: Callable[[Piece], list[ChatChunkChoice]],
        times_of: Callable[[Exchange], dict[str, Any]],
    ) -> None:
        self._includes_usage = body.stream_options.include_usage
        self._tells_usage = body.stream_options.tells_usage_throughout
        self._exchange = exchange
        self._frames = frames
        self._first = first
        self._prompt = prompt
        self._choices_of = choices_of
        self._times_of = times_of
        self._around: dict[int, tuple[bytes, bytes]] = {}
        """Of continuations that have begun: what their texts stand between, in events that say nothing else."""
        self._is_plain = not (body.logprobs or body.return_token_ids or self._tells_usage)
        num_prompt = len(exchange.prompt_token_ids)
        self._told = Usage.count(num_prompt, 0, 0) if self._tells_usage else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for pieces in self._exchange.steps():
            yield self._events(pieces)
        if self._includes_usage:
            yield self._frames.chunk([], self._exchange.usage, self._times_of(self._exchange))

    def tap(self, way: ShortWay) -> None:
        """See Tappable.tap."""
        self._exchange.tap(way, lambda piece: self._events([piece]), self._around_of(0) if self._is_plain else None)

    def _events(self, pieces: list[Piece]) -> bytes:
        told, usage = self._told, self._exchange.usage if self._tells_usage else None
        self._told = usage
        events: list[bytes] = []
        for piece in pieces:
            index, said = piece.choice.index, piece.events
            if index not in self._around:
                events.append(self._begin(index, usage if events else told))
            # What most tokens are; a match would take longer than all else here.
            if self._is_plain and piece.finish_reason is None and len(said) == 1 and type(said[0]) is Content:
                before, behind = self._around[index]
                events += before, encode(said[0].text), behind
            else:
                events += [self._frames.chunk([choice], usage) for choice in self._choices_of(piece)]
        return b"".join(events)

    def _begin(self, index: int, told: Usage | None) -> bytes:
        """A continuation's first event. ``told``: the usage that the stream has told of."""
        extra = None if self._around else self._prompt
        self._around[index] = self._around_of(index)
        return self._frames.chunk([ChatChunkChoice(index, self._first)], told, extra)

    def _around_of(self, index: int) -> tuple[bytes, bytes]:
        return self._frames.around(lambda text: ChatChunkChoice(index, ChatDelta(content=text)))


def _timings(exchange: Exchange) -> Timings:
    """Of an answer that is over, as llama.cpp's clients read them."""
    usage, num_cached = exchange.usage, exchange.num_cached_tokens
    return timings(num_cached, usage.prompt_tokens - num_cached, usage.completion_tokens, exchange.metrics)


def new_call_id() -> str:
    """A name for a call that the model gave none."""
    return f"call_{uuid.uuid4().hex[:24]}"
