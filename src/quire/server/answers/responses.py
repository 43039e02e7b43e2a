"""A response while it is made: pieces of the reply become items, and events of a stream where one is wanted.

Law: whatever the reply was cut into, the items are the same; every item that was added is done before the response is;
the last event is told exactly once.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from quire.core.errors import QuireError
from quire.core.step import FinishReason
from quire.server.answers.logprobs import LogprobShaper
from quire.server.answers.response_items import GrowingCall, GrowingItem, GrowingMessage, GrowingReasoning
from quire.server.exchange import Piece
from quire.server.faces import encode
from quire.server.schema.chat import ChosenLogprob
from quire.server.schema.common import Usage
from quire.server.schema.response_events import (
    ResponseCompleted,
    ResponseCreated,
    ResponseEvent,
    ResponseFailed,
    ResponseIncomplete,
    ResponseInProgress,
    ResponseQueued,
    StreamEvent,
)
from quire.server.schema.responses import (
    ENCRYPTED_REASONING,
    FunctionCall,
    IncompleteDetails,
    ItemStatus,
    OutputItem,
    ResponseError,
    ResponseObject,
    ResponsesRequest,
    ResponseUsage,
    Status,
)
from quire.text.dialects.events import CallArguments, CallBegun, Content, Event, Reasoning

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer

_HEADS = {kind: f"event: {kind.__struct_config__.tag}\ndata: ".encode() for kind in get_args(ResponseEvent)}
_ENDS: dict[Status, type[StreamEvent]] = {
    "completed": ResponseCompleted,
    "incomplete": ResponseIncomplete,
    # There is no event of its own for it: what there is, is not complete.
    "cancelled": ResponseIncomplete,
    "failed": ResponseFailed,
}


class ResponseAnswer:
    """Makes one response. ``response``: as it was asked for, and from then on as it is.

    ``has_events``: frames are made for ``take``.
    """

    def __init__(
        self, body: ResponsesRequest, response: ResponseObject, tokenizer: "Tokenizer", *, has_events: bool
    ) -> None:
        self.response = response
        self.is_cancelled = False
        self._body = body
        self._has_events = has_events
        self._frames: list[bytes] = []
        self._num_told = 0
        self._logprobs = LogprobShaper(tokenizer, False)
        self._tokens = _TextTokens()
        self._output: list[OutputItem] = []
        self._growing: GrowingItem | None = None
        self._finish_reason: str | None = None
        self._cuts_call = False

    def take(self) -> list[bytes]:
        """The events told since this was last asked for, one frame each."""
        frames, self._frames = self._frames, []
        return frames

    def begin(self) -> None:
        self._tell(ResponseCreated, response=self.response)
        if self.response.status == "queued":
            self._tell(ResponseQueued, response=self.response)
        else:
            self._tell(ResponseInProgress, response=self.response)

    def start(self) -> None:
        """From now on it is no longer queued."""
        if self.response.status == "queued":
            self._change(status="in_progress")
            self._tell(ResponseInProgress, response=self.response)

    def read(self, piece: Piece) -> None:
        """What one step said."""
        self.start()
        logprobs = self._logprobs_of(piece)
        for event in piece.events:
            self._read(event, logprobs)
        self._finish_reason = piece.finish_reason or self._finish_reason
        self._cuts_call = piece.cuts_call

    def end(self, usage: Usage) -> None:
        """The reply is over."""
        reason = self._finish_reason
        if self.is_cancelled:
            self._end("cancelled", usage)
        elif reason == FinishReason.LENGTH:
            self._end("incomplete", usage, incomplete_details=IncompleteDetails("max_output_tokens"))
        elif reason == FinishReason.ABORT:
            said = "The response was ended before it was done: by an operator, or because the server shuts down."
            self._end("failed", usage, error=ResponseError("server_error", said))
        else:
            self._end("completed", usage)

    def fail(self, error: QuireError, usage: Usage) -> None:
        """Nothing more comes of it."""
        self._end("failed", usage, error=ResponseError("server_error", error.message))

    def _end(self, status: Status, usage: Usage, **said: Any) -> None:
        is_whole = status == "completed"
        if is_whole and self._growing is None and not self._output:
            self._growing = self._message()  # a reply of nothing is an empty message
        self._close("completed" if is_whole and not self._cuts_call else "incomplete")
        completed_at = int(time.time()) if is_whole else None
        self._change(status=status, usage=ResponseUsage.of(usage), completed_at=completed_at, **said)
        self._tell(_ENDS[status], response=self.response)

    def _read(self, event: Event, logprobs: list[ChosenLogprob]) -> None:
        growing = self._growing
        match event:
            case Content(text):
                message = growing if isinstance(growing, GrowingMessage) else self._message()
                message.add(text, logprobs[:])
                logprobs.clear()
            case Reasoning(text):
                if not self._body.include_reasoning:
                    return
                reasoning = growing if isinstance(growing, GrowingReasoning) else self._reasoning()
                reasoning.add(text)
            case CallBegun(_, name, id):
                self._close("completed")
                # Clients tell calls apart by this id; a model that names its calls itself may repeat one.
                is_taken = any(isinstance(item, FunctionCall) and item.call_id == id for item in self._output)
                self._growing = GrowingCall(self._tell, len(self._output), name, None if is_taken else id)
            case CallArguments(_, text):
                assert isinstance(growing, GrowingCall), "a call's arguments come before anything else is said"
                growing.add(text)

    def _message(self) -> GrowingMessage:
        self._close("completed")
        self._growing = message = GrowingMessage(self._tell, len(self._output))
        return message

    def _reasoning(self) -> GrowingReasoning:
        self._close("completed")
        self._growing = reasoning = GrowingReasoning(
            self._tell,
            len(self._output),
            as_summary=self._body.summary is not None,
            is_sealed=ENCRYPTED_REASONING in self._body.include,
        )
        return reasoning

    def _close(self, status: ItemStatus) -> None:
        if self._growing is not None:
            self._output.append(self._growing.close(status))
            self._growing = None
            self._change(output=self._output[:])

    def _logprobs_of(self, piece: Piece) -> list[ChosenLogprob]:
        choice = piece.choice
        shaped = self._logprobs.chat(choice.token_ids, choice.logprobs, self._body.top_logprobs or 0)
        if shaped is None:
            return []
        return self._tokens.take(shaped.content, piece.events, isinstance(self._growing, GrowingMessage))

    def _change(self, **fields: Any) -> None:
        self.response = msgspec.structs.replace(self.response, **fields)

    def _tell(self, kind: type[StreamEvent], **fields: Any) -> None:
        if not self._has_events:
            return
        event = kind(sequence_number=self._num_told, **fields)
        self._num_told += 1
        self._frames.append(_HEADS[kind] + encode(event) + b"\n\n")


class _TextTokens:
    """Finds, of the tokens that were sampled, those that made the answer's text.

    A step that only says more of a message gives all its tokens, and those of steps before it that said nothing yet.
    Where something else was said, such as reasoning, as many as the text needs are taken from the side it stands on.
    """

    def __init__(self) -> None:
        self._held: list[ChosenLogprob] = []

    def take(self, tokens: Sequence[ChosenLogprob], events: Sequence[Event], continues: bool) -> list[ChosenLogprob]:
        """``continues``: a message is open already."""
        held = [*self._held, *tokens]
        if not events:
            self._held = held
            return []
        self._held = []
        text = "".join(event.text for event in events if isinstance(event, Content))
        if not text:
            return []
        if continues and all(isinstance(event, Content) for event in events):
            return held
        is_first = continues and isinstance(events[0], Content)
        taken: list[ChosenLogprob] = []
        length = 0
        for token in held if is_first else reversed(held):
            if length >= len(text):
                break
            taken.append(token)
            length += len(token.token)
        return taken if is_first else taken[::-1]
