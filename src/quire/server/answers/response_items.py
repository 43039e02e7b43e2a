"""The items of a response while they grow: what each tells a stream as it begins, grows and ends.

A reply is one item after another; a new one begins where the kind of what is said changes.
"""

from typing import Any, Protocol

from msgspec import UNSET

from quire.server.answers.chat import new_call_id
from quire.server.schema.chat import ChosenLogprob
from quire.server.schema.response_events import (
    ArgumentsDelta,
    ArgumentsDone,
    ContentPartAdded,
    ContentPartDone,
    OutputItemAdded,
    OutputItemDone,
    OutputTextDelta,
    OutputTextDone,
    ReasoningTextDelta,
    ReasoningTextDone,
    StreamEvent,
    SummaryPartAdded,
    SummaryPartDone,
    SummaryTextDelta,
    SummaryTextDone,
)
from quire.server.schema.response_input import new_id, sealed
from quire.server.schema.responses import (
    FunctionCall,
    ItemStatus,
    OutputItem,
    OutputMessage,
    OutputText,
    ReasoningItem,
    ReasoningText,
    SummaryText,
)


class Tell(Protocol):
    """Sends an event, once it is numbered."""

    def __call__(self, kind: type[StreamEvent], **fields: Any) -> None: ...


class GrowingItem(Protocol):
    def close(self, status: ItemStatus) -> OutputItem:
        """The item as it is at its end; it is not to be used any more."""
        ...


class GrowingMessage:
    """The assistant's text, in one part."""

    def __init__(self, tell: Tell, output_index: int) -> None:
        self._tell = tell
        self._at: dict[str, Any] = {"item_id": new_id("msg"), "output_index": output_index, "content_index": 0}
        self._texts: list[str] = []
        self._logprobs: list[ChosenLogprob] = []
        begun = OutputMessage(id=self._at["item_id"], status="in_progress")
        tell(OutputItemAdded, output_index=output_index, item=begun)
        tell(ContentPartAdded, **self._at, part=OutputText(""))

    def add(self, text: str, logprobs: list[ChosenLogprob]) -> None:
        self._texts.append(text)
        self._logprobs += logprobs
        self._tell(OutputTextDelta, **self._at, delta=text, logprobs=logprobs)

    def close(self, status: ItemStatus) -> OutputMessage:
        part = OutputText("".join(self._texts), logprobs=self._logprobs)
        item = OutputMessage(id=self._at["item_id"], status=status, content=[part])
        self._tell(OutputTextDone, **self._at, text=part.text, logprobs=part.logprobs)
        self._tell(ContentPartDone, **self._at, part=part)
        self._tell(OutputItemDone, output_index=self._at["output_index"], item=item)
        return item


class GrowingReasoning:
    """``as_summary``: where a summary was asked for, the text stands in its place; the model writes no other.

    ``is_sealed``: the whole text is also given in a form that every client sends back.
    """

    def __init__(self, tell: Tell, output_index: int, *, as_summary: bool, is_sealed: bool) -> None:
        self._tell = tell
        self._as_summary = as_summary
        self._is_sealed = is_sealed
        self._id = new_id("rs")
        self._at: dict[str, Any] = {"item_id": self._id, "output_index": output_index}
        self._at["summary_index" if as_summary else "content_index"] = 0
        self._texts: list[str] = []
        tell(OutputItemAdded, output_index=output_index, item=ReasoningItem(id=self._id, status="in_progress"))
        if as_summary:
            tell(SummaryPartAdded, **self._at, part=SummaryText(""))
        else:
            tell(ContentPartAdded, **self._at, part=ReasoningText(""))

    def add(self, text: str) -> None:
        self._texts.append(text)
        self._tell(SummaryTextDelta if self._as_summary else ReasoningTextDelta, **self._at, delta=text)

    def close(self, status: ItemStatus) -> ReasoningItem:
        text = "".join(self._texts)
        if self._as_summary:
            self._tell(SummaryTextDone, **self._at, text=text)
            self._tell(SummaryPartDone, **self._at, part=SummaryText(text))
        else:
            self._tell(ReasoningTextDone, **self._at, text=text)
            self._tell(ContentPartDone, **self._at, part=ReasoningText(text))
        item = ReasoningItem(
            id=self._id,
            status=status,
            summary=[SummaryText(text)] if self._as_summary else [],
            content=[] if self._as_summary else [ReasoningText(text)],
            encrypted_content=sealed(text) if self._is_sealed else UNSET,
        )
        self._tell(OutputItemDone, output_index=self._at["output_index"], item=item)
        return item


class GrowingCall:
    """``call_id``: the model's own name for the call, where it gave one."""

    def __init__(self, tell: Tell, output_index: int, name: str, call_id: str | None) -> None:
        self._tell = tell
        self._at: dict[str, Any] = {"item_id": new_id("fc"), "output_index": output_index}
        self._call_id = call_id or new_call_id()
        self._name = name
        self._texts: list[str] = []
        tell(OutputItemAdded, output_index=output_index, item=self._item("in_progress"))

    def add(self, text: str) -> None:
        self._texts.append(text)
        self._tell(ArgumentsDelta, **self._at, delta=text)

    def close(self, status: ItemStatus) -> FunctionCall:
        item = self._item(status)
        self._tell(ArgumentsDone, **self._at, name=self._name, arguments=item.arguments)
        self._tell(OutputItemDone, output_index=self._at["output_index"], item=item)
        return item

    def _item(self, status: ItemStatus) -> FunctionCall:
        return FunctionCall(
            id=self._at["item_id"],
            status=status,
            call_id=self._call_id,
            name=self._name,
            arguments="".join(self._texts),
        )
