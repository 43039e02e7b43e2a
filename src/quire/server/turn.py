"""One turn of a conversation, whatever API asked for it.

Every face (OpenAI's chat and Responses, Anthropic's, Ollama's) makes a Turn of its request, begins it, and shapes what
comes of it (``exchange.py``).
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from quire.core.errors import InvalidRequest
from quire.core.sampling_params import SamplingParams
from quire.server.beams import Beams
from quire.server.rendering import Conversation
from quire.text.dialects.dialect import Tool

ToolChoice = Literal["auto", "none", "required"]


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of the model: the conversation, what it may call, and how its tokens are chosen.

    ``forced_tool``: the one it must call. ``has_parallel_calls``: it may call several at once. ``context``: token ids
    that stand before the conversation's. ``prompt``: given in the place of all that, and answered as it is: nothing is
    read out of the reply.
    """

    conversation: Conversation
    context: Sequence[int] = ()
    prompt: str | list[int] | None = None
    params: SamplingParams
    request_id: str
    is_streamed: bool
    tool_choice: ToolChoice = "auto"
    forced_tool: str | None = None
    has_parallel_calls: bool = True
    separates_reasoning: bool = True
    """Otherwise it stays in the content, as it was written."""
    beams: Beams | None = None
    add_special_tokens: bool = False
    priority: int = 0
    cache_salt: str = ""

    @property
    def tools(self) -> Sequence[Tool]:
        return self.conversation.tools

    @property
    def offered(self) -> tuple[Tool, ...]:
        """The tools that the reply may call."""
        if self.forced_tool is not None:
            return tuple(tool for tool in self.tools if tool.name == self.forced_tool)
        return () if self.tool_choice == "none" else tuple(self.tools)

    @property
    def must_call(self) -> bool:
        return self.forced_tool is not None or (self.tool_choice == "required" and bool(self.tools))

    def check(self) -> None:
        """Raise InvalidRequest for a choice of tools that are not there."""
        names = [tool.name for tool in self.tools]
        if self.forced_tool is not None and self.forced_tool not in names:
            shown = ", ".join(map(repr, names)) or "none"
            raise InvalidRequest(
                f"tool_choice names {self.forced_tool[:80]!r}, which is none of the tools offered ({shown}).",
                param="$.tool_choice",
            )
        if self.tool_choice == "required" and not self.tools:
            raise InvalidRequest("tool_choice is required, but there are no tools: give tools.", param="$.tools")
