"""What Ollama's clients are answered: one record, or a line of JSON for each step and a last one with the counts.

A call of a tool is told when it is whole. Law: the texts and calls of a stream, put together, are those of the whole.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from quire.core.outputs import CompletionOutput, RequestMetrics
from quire.core.step import FinishReason
from quire.server.answers.arguments import arguments_of
from quire.server.answers.chat import new_call_id
from quire.server.answers.logprobs import LogprobShaper
from quire.server.answers.timestamps import rfc3339
from quire.server.exchange import Exchange, Piece, Told, broken_off, is_cut
from quire.server.faces import encode
from quire.server.schema.ollama import (
    OllamaAnswer,
    OllamaChatAnswer,
    OllamaChosenLogprob,
    OllamaFunction,
    OllamaGenerateAnswer,
    OllamaMessage,
    OllamaToolCall,
)
from quire.text.dialects.events import CallArguments, CallBegun, Content, Event, Reasoning

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer

Record = Callable[..., OllamaAnswer]
"""Makes a record of ``content``, ``thinking``, ``calls`` and the fields that all records have."""


class OllamaShaper:
    """Shapes one answer. ``begun_s``: when the request arrived, in time.monotonic() seconds.

    ``returns_context``: the last record holds the ids of prompt and answer.
    """

    def __init__(
        self,
        *,
        model: str,
        record: Record,
        begun_s: float,
        tokenizer: "Tokenizer",
        num_top: int = 0,
        returns_context: bool = False,
    ) -> None:
        self._model = model
        self._record = record
        self._begun_s = begun_s
        self._logprobs = LogprobShaper(tokenizer, as_ids=False)
        self._num_top = num_top
        self._returns_context = returns_context

    def nothing(self, done_reason: str) -> OllamaAnswer:
        """The answer where nothing was asked."""
        return self.make(_Said([], {}), True, done_reason=done_reason)

    async def whole(self, exchange: Exchange) -> OllamaAnswer:
        """Raises Overloaded for an answer that was broken off."""
        _, (answered,) = await exchange.finals()
        said = _Said(answered.events, {})
        said.end(is_cut=is_cut(answered.choice))
        ids = answered.choice.token_ids
        end = self.end(exchange, answered.choice, len(ids), ids)
        return self.make(said, True, logprobs=self.logprobs_of(answered.choice), **end)

    def lines(self, exchange: Exchange) -> Told:
        """The stream. Raises as ``whole`` does."""
        return exchange.told(_Lines(self, exchange).of)

    def make(self, said: "_Said", done: bool, **fields: Any) -> OllamaAnswer:
        """One record."""
        return self._record(
            content="".join(said.content),
            thinking="".join(said.thinking) or UNSET,
            calls=said.calls or UNSET,
            model=self._model,
            created_at=rfc3339(time.time()),
            done=done,
            **fields,
        )

    def end(self, exchange: Exchange, choice: CompletionOutput, count: int, ids: Sequence[int]) -> dict[str, Any]:
        """The last record's fields. Raises Overloaded if the answer was broken off."""
        if choice.finish_reason not in (FinishReason.STOP, FinishReason.LENGTH):
            raise broken_off()
        fields = {
            "done_reason": choice.finish_reason,
            "prompt_eval_count": len(exchange.prompt_token_ids),
            "eval_count": count,
            **_durations(self._begun_s, exchange.metrics),
        }
        if self._returns_context:
            fields["context"] = [*exchange.prompt_token_ids, *ids]
        return fields

    def logprobs_of(self, choice: CompletionOutput) -> list[OllamaChosenLogprob] | UnsetType:
        """If they were asked for."""
        shaped = self._logprobs.chat(choice.token_ids, choice.logprobs, self._num_top)
        if shaped is None or not shaped.content:
            return UNSET
        return [
            OllamaChosenLogprob(
                one.token,
                one.logprob,
                one.bytes,
                one.top_logprobs or UNSET,
            )
            for one in shaped.content
        ]


class _Lines:
    """The lines of one streamed answer, step by step."""

    def __init__(self, shaper: OllamaShaper, exchange: Exchange) -> None:
        self._shaper = shaper
        self._exchange = exchange
        self._open_calls: dict[int, tuple[CallBegun, list[str]]] = {}
        self._ids: list[int] = []

    def of(self, pieces: list[Piece]) -> bytes:
        shaper, ids, lines = self._shaper, self._ids, []
        for piece in pieces:
            choice = piece.choice
            ids += choice.token_ids
            said = _Said(piece.events, self._open_calls)
            if choice.finish_reason is not None:
                said.end(is_cut=is_cut(choice))
            logprobs = shaper.logprobs_of(choice)
            if said or logprobs:
                lines.append(encode(shaper.make(said, False, logprobs=logprobs)))
            if choice.finish_reason is not None:
                end = shaper.end(self._exchange, choice, len(ids), ids)
                lines.append(encode(shaper.make(_Said([], {}), True, **end)))
        return b"".join(line + b"\n" for line in lines)


def chat_record(
    content: str, thinking: str | UnsetType, calls: list[OllamaToolCall] | UnsetType, **fields: Any
) -> OllamaAnswer:
    """A record of a conversation's answer."""
    message = OllamaMessage(content=content, thinking=thinking, tool_calls=calls)
    return OllamaChatAnswer(message=message, **fields)


def generate_record(
    content: str, thinking: str | UnsetType, calls: list[OllamaToolCall] | UnsetType, **fields: Any
) -> OllamaAnswer:
    """A record of a prompt's answer, which has no calls since no tools can be offered."""
    return OllamaGenerateAnswer(response=content, thinking=thinking, **fields)


class _Said:
    """What some events say. ``open_calls`` are those that were begun before and are not yet whole."""

    def __init__(self, events: Sequence[Event], open_calls: dict[int, tuple[CallBegun, list[str]]]) -> None:
        self.content: list[str] = []
        self.thinking: list[str] = []
        self.calls: list[OllamaToolCall] = []
        self._open = open_calls
        for event in events:
            match event:
                case Content(text):
                    self.content.append(text)
                case Reasoning(text):
                    self.thinking.append(text)
                case CallBegun(index):
                    self.end(is_cut=False)
                    self._open[index] = (event, [])
                case CallArguments(index, text):
                    self._open[index][1].append(text)

    def __bool__(self) -> bool:
        return bool(self.content or self.thinking or self.calls)

    def end(self, *, is_cut: bool) -> None:
        """The calls that were open are whole, or as whole as they will be."""
        for index, (begun, pieces) in self._open.items():
            arguments = arguments_of("".join(pieces), is_cut=is_cut)
            self.calls.append(OllamaToolCall(begun.id or new_call_id(), OllamaFunction(index, begun.name, arguments)))
        self._open.clear()


def _durations(begun_s: float, metrics: RequestMetrics | None) -> dict[str, int]:
    """In nanoseconds: waiting, prompt and answer, which together are less than the whole."""
    now = time.monotonic()
    started = metrics.scheduled_s if metrics is not None and metrics.scheduled_s is not None else begun_s
    first = metrics.first_token_s if metrics is not None and metrics.first_token_s is not None else now
    last = metrics.last_token_s if metrics is not None and metrics.last_token_s is not None else now
    durations = {
        "total_duration": now - begun_s,
        "load_duration": started - begun_s,
        "prompt_eval_duration": first - started,
        "eval_duration": last - first,
    }
    return {name: max(1, round(seconds * 1e9)) for name, seconds in durations.items()}
