"""A conversation's answer, whole or as a stream's chunks.

A stream: for each continuation a chunk with the role, chunks with text, a chunk with the finish reason; then, if asked
for, one without choices that holds the usage.
"""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from quire.core.outputs import CompletionOutput, RequestOutput
from quire.server.answers.logprobs import LogprobShaper, finite
from quire.server.generation import Generation
from quire.server.schema.chat import (
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionRequest,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
)
from quire.server.schema.common import Usage
from quire.server.streaming import Frames

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer


class ChatAnswer:
    """Shapes one answer. ``heading`` is what every object of it says: id, created, model, fingerprint.

    ``echoed``: text of the conversation's last message, which the answer begins with when that was asked for.
    """

    def __init__(
        self, body: ChatCompletionRequest, heading: dict[str, Any], tokenizer: "Tokenizer", role: str, echoed: str
    ) -> None:
        self._body = body
        self._heading = heading
        self._role = role
        self._echoed = echoed
        self._logprobs = LogprobShaper(tokenizer, body.return_tokens_as_token_ids)

    def whole(self, output: RequestOutput) -> ChatCompletion:
        return ChatCompletion(
            id=self._heading["id"],
            created=self._heading["created"],
            model=self._heading["model"],
            system_fingerprint=self._heading["fingerprint"],
            choices=[self._choice(choice) for choice in output.outputs],
            usage=Usage.of([output]),
            prompt_logprobs=UNSET if output.prompt_logprobs is None else finite(output.prompt_logprobs),
            prompt_token_ids=output.prompt_token_ids if self._body.return_token_ids else UNSET,
        )

    def _choice(self, choice: CompletionOutput) -> ChatChoice:
        return ChatChoice(
            index=choice.index,
            message=ChatMessage(self._role, self._echoed + choice.text),
            logprobs=self._logprobs_of(choice),
            finish_reason=choice.finish_reason or "stop",
            stop_reason=choice.stop_reason,
            token_ids=list(choice.token_ids) if self._body.return_token_ids else UNSET,
        )

    async def chunks(self, generation: Generation) -> AsyncIterator[bytes]:
        """The stream's events, one bytes object for each step of the engine."""
        options = self._body.stream_options
        frames = Frames(object="chat.completion.chunk", has_usage=options.include_usage, **self._heading)
        (stream,) = generation.streams
        prompt_ids = stream.prompt_token_ids
        begun: set[int] = set()
        num_tokens = num_cached = 0
        async for _, output in generation.events():
            num_cached = output.num_cached_tokens or num_cached
            num_tokens += sum(len(choice.token_ids) for choice in output.outputs)
            usage = Usage.count(len(prompt_ids), num_tokens, num_cached) if options.continuous_usage_stats else None
            events: list[bytes] = []
            for choice in output.outputs:
                if choice.index not in begun:
                    shown_ids = prompt_ids if self._body.return_token_ids and not begun else None
                    begun.add(choice.index)
                    events.append(frames.chunk([self._role_chunk(choice.index)], usage, shown_ids))
                events += [frames.chunk([piece], usage) for piece in self._pieces(choice)]
            yield b"".join(events)
        if options.include_usage:
            yield frames.chunk([], Usage.count(len(prompt_ids), num_tokens, num_cached))

    def _role_chunk(self, index: int) -> ChatChunkChoice:
        return ChatChunkChoice(index, ChatDelta(self._role, self._echoed))

    def _pieces(self, choice: CompletionOutput) -> list[ChatChunkChoice]:
        """What one step of one continuation says: its text, if there is any, and its end, if it came."""
        pieces = []
        wanted = self._body.return_token_ids or choice.logprobs is not None
        if choice.text or (wanted and choice.token_ids):
            pieces.append(
                ChatChunkChoice(
                    choice.index,
                    ChatDelta(content=choice.text),
                    self._logprobs_of(choice),
                    token_ids=list(choice.token_ids) if self._body.return_token_ids else UNSET,
                )
            )
        if choice.finish_reason is not None:
            pieces.append(
                ChatChunkChoice(
                    choice.index, ChatDelta(), finish_reason=choice.finish_reason, stop_reason=choice.stop_reason
                )
            )
        return pieces

    def _logprobs_of(self, choice: CompletionOutput) -> ChatLogprobs | None:
        if choice.logprobs is None:
            return None
        return self._logprobs.chat(choice.token_ids, choice.logprobs, self._body.top_logprobs or 0)
