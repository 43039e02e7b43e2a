"""A turn being answered: its prompt rendered and submitted, its reply read into parts.

Law: an Exchange is closed exactly when the answer is over, whatever way that came about.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from quire.core.errors import Overloaded
from quire.core.outputs import CompletionOutput, OutputKind, RequestMetrics, RequestOutput
from quire.core.step import FinishReason
from quire.server.beams import takes_no_shape
from quire.server.constraint import needs_grammar, reply_grammar
from quire.server.generation import Generation
from quire.server.rendering import render
from quire.server.schema.common import Usage
from quire.server.service import Plan, Service
from quire.server.short_way import EventTap, ShortWay, TextTap
from quire.server.turn import Turn
from quire.text.dialects.dialect import Parser
from quire.text.dialects.events import CallBegun, Content, Event, Reasoning, Reply
from quire.text.dialects.registry import Dialects

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer

TOOL_CALLS = "tool_calls"
"""The finish reason of a reply that ends with calls of tools."""


class Piece(msgspec.Struct, frozen=True):
    """What one step said of one continuation."""

    choice: CompletionOutput
    events: list[Event]
    finish_reason: str | None
    """The choice's own, or TOOL_CALLS."""
    cuts_call: bool
    """The request's own stop came within the last call's arguments."""


class Answered(msgspec.Struct, frozen=True):
    """One continuation at its end."""

    choice: CompletionOutput
    events: list[Event]
    """The reply in the order in which it was written."""
    reply: Reply
    finish_reason: str
    cuts_call: bool
    """As a Piece has it."""


def is_cut(choice: CompletionOutput) -> bool:
    """Whether something else than the model ended what is over, so that its last call may lack its end."""
    return choice.finish_reason != FinishReason.STOP or choice.stop_reason is not None


async def begin(service: Service, turn: Turn) -> "Exchange":
    """Render and submit a turn. Raises what the template or the engine's door refuses."""
    turn.check()
    dialects = service.dialects if turn.prompt is None else Dialects()
    prompt = await render(service, turn.conversation) if turn.prompt is None else ""
    grammar = None
    if needs_grammar(turn):
        if turn.beams is not None:
            raise takes_no_shape()
        grammar = await service.llm.grammar_desk.run(reply_grammar, turn, dialects, service.llm.grammars, prompt)
    params = turn.params
    if params.skip_special_tokens and turn.prompt is None:
        params = params.replace(shown_special_token_ids=service.marker_ids)
    plan = Plan(
        prompts=[await _asked(service, turn, prompt)],
        params=params,
        kind=OutputKind.DELTA if turn.is_streamed else OutputKind.FINAL,
        request_id=turn.request_id,
        add_special_tokens=turn.add_special_tokens,
        priority=turn.priority,
        cache_salt=turn.cache_salt,
        beams=turn.beams,
        grammar=grammar,
    )
    generation = await service.generate(plan)
    read = dialects if turn.separates_reasoning else Dialects(tools=dialects.tools)
    return Exchange(turn, prompt, generation, read, service.llm.tokenizer)


async def _asked(service: Service, turn: Turn, prompt: str) -> str | list[int]:
    if turn.prompt is not None or not turn.context:
        return prompt if turn.prompt is None else turn.prompt
    ids = await service.llm.run_blocking(service.llm.tokenizer.encode, prompt, turn.add_special_tokens)
    return [*turn.context, *ids]


def broken_off() -> Overloaded:
    """Told by the APIs that have no reason to finish for an answer that the server ends."""
    return Overloaded("The server broke the answer off before its end: ask again.", retry_after_s=5)


class Exchange:
    """A turn being answered. Read it once, by ``steps`` or by ``finals``."""

    def __init__(
        self,
        turn: Turn,
        prompt: str,
        generation: Generation,
        dialects: Dialects,
        tokenizer: "Tokenizer",
    ) -> None:
        self.prompt = prompt
        self._turn = turn
        self._generation = generation
        self._reasoning = dialects.reasoning
        self._tokenizer = tokenizer
        (self._stream,) = generation.streams
        is_plain = not turn.offered and dialects.reasoning is None
        self._readers = [
            _Reader(turn, None if is_plain else dialects.parser(turn.offered, prompt)) for _ in range(turn.params.n)
        ]
        self._num_cached = 0
        self._text_tap: TextTap | None = None
        self.metrics: RequestMetrics | None = None
        """When it began and went on, as far as that was told."""

    @property
    def num_cached_tokens(self) -> int:
        """Of the prompt."""
        return self._num_cached

    @property
    def prompt_token_ids(self) -> list[int]:
        return self._stream.prompt_token_ids

    @property
    def usage(self) -> Usage:
        """So far."""
        return Usage.count(
            len(self.prompt_token_ids),
            sum(reader.num_tokens for reader in self._readers) + (self._text_tap.num_tokens if self._text_tap else 0),
            self._num_cached,
            sum(self._num_reasoning_tokens(reader) for reader in self._readers) if self._reasoning else None,
        )

    async def steps(self) -> AsyncIterator[list[Piece]]:
        """What is new, as it comes; of a streamed turn. Raises GenerationFailed or EngineDead."""
        async for _, output in self._generation.events():
            yield self._read(output)

    def tap(
        self, way: ShortWay, events_of: Callable[[Piece], bytes], around: tuple[bytes, bytes] | None = None
    ) -> None:
        """While ``way`` is open, pieces go by it when they come, as ``events_of`` tells them; ``steps`` has the rest.

        ``around``: what a text stands between, if a piece that says nothing else is told like that.
        """
        reader = self._readers[0]
        if around is not None and reader.is_plain:
            self._text_tap = TextTap(way, around)
            self._generation.tap(self._text_tap)
            return

        def events(text: str, token_ids: Sequence[int]) -> bytes:
            return events_of(reader.read(CompletionOutput(index=0, text=text, token_ids=token_ids)))

        self._generation.tap(EventTap(way, events))

    def told(self, tell: Callable[[list[Piece]], bytes]) -> "Told":
        """``steps`` as ``tell`` tells them."""
        return Told(self, tell)

    async def finals(self) -> tuple[RequestOutput, list[Answered]]:
        """The whole answer. Raises GenerationFailed or EngineDead."""
        (output,) = await self._generation.finals()
        self._num_cached = output.num_cached_tokens or 0
        self.metrics = output.metrics
        answered = []
        for choice in output.outputs:
            piece = self._readers[choice.index].read(choice)
            reason = piece.finish_reason or FinishReason.STOP.value
            answered.append(Answered(choice, piece.events, Reply.of(piece.events), reason, piece.cuts_call))
        return output, answered

    def abort(self) -> None:
        """Stop the engine's work; readers still get what there is, and the end."""
        self._generation.abort()

    def close(self) -> None:
        self._generation.close()

    def _read(self, output: RequestOutput) -> list[Piece]:
        self._num_cached = output.num_cached_tokens or self._num_cached
        self.metrics = output.metrics
        return [self._readers[choice.index].read(choice) for choice in output.outputs]

    def _num_reasoning_tokens(self, reader: "_Reader") -> int:
        """Up to the token that ends reasoning; counted anew from the text where that is no token of its own."""
        assert self._reasoning is not None
        if not reader.reasoning:
            return 0
        end = self._tokenizer.token_to_id(self._reasoning.end)
        if end is not None and end in reader.token_ids:
            return reader.token_ids.index(end)
        if not reader.has_answered:
            return reader.num_tokens
        return len(self._tokenizer.encode("".join(reader.reasoning), False))


class Told:
    """What is said of an exchange's steps, one bytes object for each. See Tappable."""

    def __init__(self, exchange: Exchange, tell: Callable[[list[Piece]], bytes]) -> None:
        self._exchange = exchange
        self._tell = tell

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for pieces in self._exchange.steps():
            yield self._tell(pieces)

    def tap(self, way: ShortWay) -> None:
        """See Tappable.tap."""
        self._exchange.tap(way, lambda piece: self._tell([piece]))


class _Reader:
    """Reads one continuation: its text through the parser, its calls as the turn allows them."""

    def __init__(self, turn: Turn, parser: Parser | None) -> None:
        self._parser = parser
        self._has_parallel_calls = turn.has_parallel_calls
        self._must_call = turn.must_call
        self._is_forced = turn.forced_tool is not None
        self._has_called = False
        self._call: list[str] | None = None
        """The arguments of a call that is the last thing that was said."""
        self.num_tokens = 0
        self.token_ids: list[int] = []
        self.reasoning: list[str] = []
        self.has_answered = False

    @property
    def is_plain(self) -> bool:
        """Whether its texts mean nothing but themselves."""
        return self._parser is None

    def read(self, choice: CompletionOutput) -> Piece:
        self.num_tokens += len(choice.token_ids)
        is_end = choice.finish_reason is not None
        if self._parser is None:
            return Piece(choice, [Content(choice.text)] if choice.text else [], choice.finish_reason, False)
        self.token_ids += choice.token_ids
        events = self._parser.push(choice.text) if choice.text else []
        if is_end:
            events += self._parser.finish()
        allowed = [event for event in events if self._takes(event)]
        cuts_call = choice.finish_reason == FinishReason.STOP and is_cut(choice) and self._lacks_end()
        return Piece(choice, allowed, self._finish_reason(choice, cuts_call), cuts_call)

    def _takes(self, event: Event) -> bool:
        """Note what an event means; whether it is the reply's to say."""
        if isinstance(event, Reasoning):
            self.reasoning.append(event.text)
            return True
        self.has_answered = True
        if isinstance(event, Content):
            self._call = None
            # Of a reply that must call it is the frame of a call, which was cut short.
            return not self._must_call
        if event.index > 0 and not self._has_parallel_calls:
            return False
        self._has_called = True
        if isinstance(event, CallBegun):
            self._call = []
        elif self._call is not None:
            self._call.append(event.text)
        return True

    def _lacks_end(self) -> bool:
        """Whether the reply is over within a call's arguments."""
        if self._call is None:
            return False
        try:
            msgspec.json.decode("".join(self._call))
        except (msgspec.DecodeError, RecursionError):
            return True
        return False

    def _finish_reason(self, choice: CompletionOutput, cuts_call: bool) -> str | None:
        ends_well = choice.finish_reason == FinishReason.STOP and not cuts_call
        # A call that was forced is no decision of the model's: OpenAI's API calls that a stop.
        return TOOL_CALLS if ends_well and self._has_called and not self._is_forced else choice.finish_reason
