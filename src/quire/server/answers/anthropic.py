"""A message of Anthropic's, whole or as the events of a stream.

A reply is blocks: thinking, text and calls, in the order in which the model wrote them. Law: the blocks of a stream,
put together, are those of the whole message.
"""

import uuid
from collections.abc import Iterable
from typing import Any

import msgspec

from quire.core.outputs import CompletionOutput
from quire.core.step import FinishReason
from quire.server.answers.arguments import arguments_of
from quire.server.exchange import Exchange, Piece, Told, broken_off, is_cut
from quire.server.faces import encode
from quire.server.schema.anthropic import (
    AnthropicMessage,
    AnthropicTextBlock,
    AnthropicUsage,
    Block,
    BlockStart,
    BlockStop,
    MessageDelta,
    MessageEnd,
    MessageStart,
    MessageStop,
    Ping,
    ThinkingBlock,
    ToolUseBlock,
)
from quire.text.dialects.events import CallArguments, CallBegun, Content, Event, Reasoning


class MessageAnswer:
    """Shapes one answer. ``max_tokens``: what was asked for; 0 shows nothing of the one token that is made.

    ``shows_thinking``: False leaves the text of thinking out.
    """

    def __init__(self, *, id: str, model: str, max_tokens: int, shows_thinking: bool) -> None:
        self._id = id
        self._model = model
        self._max_tokens = max_tokens
        self._shows_thinking = shows_thinking

    async def whole(self, exchange: Exchange) -> AnthropicMessage:
        """Raises Overloaded for an answer that was broken off."""
        _, (answered,) = await exchange.finals()
        choice, events = answered.choice, self.shown(answered.events)
        end = self.end(choice, len(choice.token_ids), has_called=any(isinstance(e, CallBegun) for e in events))
        return msgspec.structs.replace(
            self.begun(exchange),
            content=_blocks(events, is_cut(choice)),
            stop_reason=end.stop_reason,
            stop_sequence=end.stop_sequence,
        )

    def events(self, exchange: Exchange) -> Told:
        """The stream's events. Raises as ``whole`` does."""
        return exchange.told(_MessageEvents(self, exchange).of)

    def shown(self, events: list[Event]) -> list[Event]:
        """Of a reply's events, what was asked for."""
        if self._max_tokens == 0:
            return []
        if self._shows_thinking:
            return events
        return [Reasoning("") if isinstance(event, Reasoning) else event for event in events]

    def begun(self, exchange: Exchange) -> AnthropicMessage:
        """The message before anything was said."""
        usage = msgspec.structs.replace(self.usage(exchange), service_tier="standard")
        return AnthropicMessage(id=self._id, model=self._model, content=[], usage=usage)

    def usage(self, exchange: Exchange) -> AnthropicUsage:
        """So far."""
        return AnthropicUsage.of(exchange.usage, self._max_tokens)

    def end(self, choice: CompletionOutput, num_tokens: int, has_called: bool) -> MessageEnd:
        """Why it is over. Raises Overloaded if it was broken off."""
        if isinstance(choice.stop_reason, str):
            return MessageEnd("stop_sequence", choice.stop_reason)
        match choice.finish_reason:
            case FinishReason.STOP:
                return MessageEnd("tool_use" if has_called else "end_turn", None)
            case FinishReason.LENGTH:
                is_full = num_tokens < self._max_tokens
                return MessageEnd("model_context_window_exceeded" if is_full else "max_tokens", None)
        raise broken_off()


class _MessageEvents:
    """The events of one streamed message, step by step."""

    def __init__(self, answer: MessageAnswer, exchange: Exchange) -> None:
        self._answer = answer
        self._exchange = exchange
        self._frames = _Frames()
        self._num_tokens = 0
        self._has_begun = False

    def of(self, pieces: list[Piece]) -> bytes:
        answer, frames, said = self._answer, self._frames, []
        if not self._has_begun:
            self._has_begun = True
            said = [frame("message_start", MessageStart(answer.begun(self._exchange))), frame("ping", Ping())]
        for piece in pieces:
            self._num_tokens += len(piece.choice.token_ids)
            said += [frames.event(event) for event in answer.shown(piece.events)]
            if piece.choice.finish_reason is not None:
                end = answer.end(piece.choice, self._num_tokens, frames.has_called)
                said.append(frames.stop())
                said.append(frame("message_delta", MessageDelta(end, answer.usage(self._exchange))))
                said.append(frame("message_stop", MessageStop()))
        return b"".join(said)


class _Frames:
    """The events of a reply's blocks. The constant parts of a block's deltas are made once."""

    def __init__(self) -> None:
        self.has_called = False
        self._index = -1
        self._kind: type[Event] | None = None
        self._head = b""

    def event(self, event: Event) -> bytes:
        match event:
            case Content(text):
                return self._begin(Content, AnthropicTextBlock(""), "text") + self._delta(text)
            case Reasoning(text):
                begun = self._begin(Reasoning, ThinkingBlock(""), "thinking")
                return begun + self._delta(text) if text else begun
            case CallBegun(_, name, id):
                self.has_called = True
                ended = self.stop()
                return ended + self._begin(CallBegun, ToolUseBlock(id or new_tool_use_id(), name, {}), "partial_json")
            case CallArguments(_, text):
                return self._delta(text)

    def stop(self) -> bytes:
        """Ends the block, if there is one."""
        if self._kind is None:
            return b""
        signed = self._delta_of("signature_delta", "signature") + b'""}}\n\n' if self._kind is Reasoning else b""
        self._kind = None
        return signed + frame("content_block_stop", BlockStop(self._index))

    def _begin(self, kind: type[Event], block: Block, field: str) -> bytes:
        if self._kind is kind:
            return b""
        ended = self.stop()
        self._kind = kind
        self._index += 1
        self._head = self._delta_of("input_json_delta" if kind is CallBegun else f"{field}_delta", field)
        return ended + frame("content_block_start", BlockStart(self._index, block))

    def _delta_of(self, kind: str, field: str) -> bytes:
        return (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
            % (self._index, kind.encode(), field.encode())
        )

    def _delta(self, text: str) -> bytes:
        return self._head + encode(text) + b"}}\n\n"


def frame(name: str, body: Any) -> bytes:
    """One event of a stream."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode(body))


def new_tool_use_id() -> str:
    """A name for a call that the model gave none."""
    return f"toolu_{uuid.uuid4().hex[:24]}"


def _blocks(events: Iterable[Event], may_lack_end: bool) -> list[Block]:
    """The blocks that these events tell. ``may_lack_end``: the last call may."""
    told: list[tuple[Event, list[str]]] = []
    for event in events:
        match event:
            case CallBegun():
                told.append((event, []))
            case CallArguments(_, text):
                told[-1][1].append(text)
            case Content(text) | Reasoning(text):
                if not told or type(told[-1][0]) is not type(event):
                    told.append((event, []))
                told[-1][1].append(text)
    return [
        _block(first, "".join(pieces), may_lack_end and i == len(told) - 1) for i, (first, pieces) in enumerate(told)
    ]


def _block(first: Event, text: str, may_lack_end: bool) -> Block:
    if isinstance(first, CallBegun):
        return ToolUseBlock(first.id or new_tool_use_id(), first.name, arguments_of(text, is_cut=may_lack_end))
    return ThinkingBlock(text) if isinstance(first, Reasoning) else AnthropicTextBlock(text)
