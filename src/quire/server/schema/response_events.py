"""The events of a Responses stream, in the order in which they may come.

``created``, for background responses ``queued``, ``in_progress``; for each item ``output_item.added``, what it is made
of, ``output_item.done``; at the end one of ``completed``, ``incomplete`` and ``failed``. Numbered from 0.
"""

import msgspec

from quire.server.schema.chat import ChosenLogprob
from quire.server.schema.responses import OutputItem, OutputText, ReasoningText, ResponseObject, SummaryText


class StreamEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    sequence_number: int


class LifecycleEvent(StreamEvent, frozen=True, kw_only=True):
    response: ResponseObject


class ResponseCreated(LifecycleEvent, frozen=True, kw_only=True, tag="response.created"):
    pass


class ResponseQueued(LifecycleEvent, frozen=True, kw_only=True, tag="response.queued"):
    pass


class ResponseInProgress(LifecycleEvent, frozen=True, kw_only=True, tag="response.in_progress"):
    pass


class ResponseCompleted(LifecycleEvent, frozen=True, kw_only=True, tag="response.completed"):
    pass


class ResponseIncomplete(LifecycleEvent, frozen=True, kw_only=True, tag="response.incomplete"):
    pass


class ResponseFailed(LifecycleEvent, frozen=True, kw_only=True, tag="response.failed"):
    pass


class OutputItemAdded(StreamEvent, frozen=True, kw_only=True, tag="response.output_item.added"):
    output_index: int
    item: OutputItem


class OutputItemDone(StreamEvent, frozen=True, kw_only=True, tag="response.output_item.done"):
    output_index: int
    item: OutputItem


class ItemEvent(StreamEvent, frozen=True, kw_only=True):
    item_id: str
    output_index: int


class ContentPartAdded(ItemEvent, frozen=True, kw_only=True, tag="response.content_part.added"):
    content_index: int
    part: OutputText | ReasoningText


class ContentPartDone(ItemEvent, frozen=True, kw_only=True, tag="response.content_part.done"):
    content_index: int
    part: OutputText | ReasoningText


class OutputTextDelta(ItemEvent, frozen=True, kw_only=True, tag="response.output_text.delta"):
    content_index: int
    delta: str
    logprobs: list[ChosenLogprob]


class OutputTextDone(ItemEvent, frozen=True, kw_only=True, tag="response.output_text.done"):
    content_index: int
    text: str
    logprobs: list[ChosenLogprob]


class ReasoningTextDelta(ItemEvent, frozen=True, kw_only=True, tag="response.reasoning_text.delta"):
    content_index: int
    delta: str


class ReasoningTextDone(ItemEvent, frozen=True, kw_only=True, tag="response.reasoning_text.done"):
    content_index: int
    text: str


class SummaryPartAdded(ItemEvent, frozen=True, kw_only=True, tag="response.reasoning_summary_part.added"):
    summary_index: int
    part: SummaryText


class SummaryPartDone(ItemEvent, frozen=True, kw_only=True, tag="response.reasoning_summary_part.done"):
    summary_index: int
    part: SummaryText


class SummaryTextDelta(ItemEvent, frozen=True, kw_only=True, tag="response.reasoning_summary_text.delta"):
    summary_index: int
    delta: str


class SummaryTextDone(ItemEvent, frozen=True, kw_only=True, tag="response.reasoning_summary_text.done"):
    summary_index: int
    text: str


class ArgumentsDelta(ItemEvent, frozen=True, kw_only=True, tag="response.function_call_arguments.delta"):
    delta: str


class ArgumentsDone(ItemEvent, frozen=True, kw_only=True, tag="response.function_call_arguments.done"):
    name: str
    arguments: str


ResponseEvent = (
    ResponseCreated
    | ResponseQueued
    | ResponseInProgress
    | ResponseCompleted
    | ResponseIncomplete
    | ResponseFailed
    | OutputItemAdded
    | OutputItemDone
    | ContentPartAdded
    | ContentPartDone
    | OutputTextDelta
    | OutputTextDone
    | ReasoningTextDelta
    | ReasoningTextDone
    | SummaryPartAdded
    | SummaryPartDone
    | SummaryTextDelta
    | SummaryTextDone
    | ArgumentsDelta
    | ArgumentsDone
)
"""Any of them: the published shape of a stream."""
