"""The grammar of a turn's reply: of an answer's shape, of calls, and of reasoning before either.

Composing may compile: call it off the event loop.
"""

from typing import TYPE_CHECKING

from quire.core.errors import Unsupported
from quire.server.turn import Turn
from quire.text.dialects.dialect import ToolDialect
from quire.text.grammar.door import GrammarDoor
from quire.text.grammar.lark import Piece, either
from quire.text.grammar.reply import after_reasoning, answer, calls, calls_in_text

if TYPE_CHECKING:
    from quire.text.dialects.registry import Dialects


def needs_grammar(turn: Turn) -> bool:
    """Whether the reply may not be just anything."""
    has_shape = turn.params.structured_outputs is not None
    return turn.must_call or has_shape or any(tool.strict for tool in turn.offered)


def reply_grammar(turn: Turn, dialects: "Dialects", door: GrammarDoor, prompt: str) -> str:
    """The grammar of the whole reply to a rendered prompt.

    Raises InvalidRequest or Unsupported for what cannot be held to.
    """
    piece = _answer(turn, dialects, door)
    reasoning = dialects.reasoning
    if reasoning is not None and not reasoning.is_over(prompt):
        piece = after_reasoning(piece, reasoning, door.special, is_open=reasoning.is_open(prompt))
    return door.text(piece, "$.tools" if turn.offered else "$.structured_outputs")


def _answer(turn: Turn, dialects: "Dialects", door: GrammarDoor) -> Piece:
    """Without the reasoning. A call that is required comes before a shape: that is one of answers, not of calls."""
    shape, tools = turn.params.structured_outputs, turn.offered
    at_most_one = turn.forced_tool is not None or not turn.has_parallel_calls
    if turn.must_call:
        return calls(_tool_dialect(dialects), tools, door.special, at_most_one=at_most_one)
    if shape is None:
        dialect = _tool_dialect(dialects)
        return calls_in_text(dialect, tools, door.special, at_most_one=at_most_one, reasoning=dialects.reasoning)
    shaped = answer(door.piece(shape), dialects.reasoning, door.special)
    if not tools:
        return shaped
    called = calls(_tool_dialect(dialects), tools, door.special, at_most_one=at_most_one)
    return either([called, shaped])


def _tool_dialect(dialects: "Dialects") -> ToolDialect:
    if dialects.tools is None:
        raise Unsupported(
            "The server reads no calls of tools (--tool-call-parser none): leave tools out.", param="$.tools"
        )
    return dialects.tools
