"""A whole reply around an answer's grammar: reasoning before it, or calls of tools in its place.

What a model thinks is free text, and the answer's grammar begins where that has ended. Calls are written as the
model's dialect writes them, with arguments that match their schemas.
"""

import itertools
from collections.abc import Mapping, Sequence

import msgspec

from quire.text.dialects.dialect import ReasoningDialect, Tool, ToolDialect
from quire.text.grammar.lark import (
    Piece,
    any_text,
    either,
    grammar_piece,
    marker_parts,
    regex_piece,
    repeated,
    sequence,
    text_piece,
    until,
    without,
)

_LINE_BREAKS = r"\n{0,4}"
"""Between reasoning and answer; readers of reasoning leave them out."""


def after_reasoning(body: Piece, dialect: ReasoningDialect, special: Mapping[str, int], *, is_open: bool) -> Piece:
    """A reply that reasons if it likes, and then is ``body``.

    ``is_open``: it begins inside reasoning, which has to end. Otherwise it begins with the mark of reasoning, or with
    the body at once.
    """
    begin, end = marker_parts(dialect.begin, special), marker_parts(dialect.end, special)
    thoughts = [until(end), regex_piece(_LINE_BREAKS)]
    if is_open:
        return sequence([*thoughts, body])
    if not body.is_regular:
        return sequence([repeated(sequence([*begin, *thoughts]), 0, 1), body])
    # A body that may begin like the mark would win over it, and one that may begin with a line break not find its own.
    at_once = _text_without_beginning(body, begin[0]) if begin[0].is_regular else body
    return either([sequence([*begin, *thoughts, body]), at_once])


def answer(body: Piece, dialect: ReasoningDialect | None, special: Mapping[str, int]) -> Piece:
    """An answer that is ``body``, behind the mark that some dialects have before their answers."""
    if dialect is None or not dialect.answer_begins:
        return body
    begins = [sequence(marker_parts(begin, special)) for begin in dialect.answer_begins]
    return sequence([either(begins), body])


def calls(dialect: ToolDialect, tools: Sequence[Tool], special: Mapping[str, int], *, at_most_one: bool) -> Piece:
    """A reply that is one or more calls of these tools, and nothing else."""
    return _calls_piece(dialect.grammar(tools, at_most_one=at_most_one, special=special))


def calls_in_text(
    dialect: ToolDialect,
    tools: Sequence[Tool],
    special: Mapping[str, int],
    *,
    at_most_one: bool,
    reasoning: ReasoningDialect | None = None,
) -> Piece:
    """Free text, in which what begins like a call of a tool must go on as one.

    In a dialect that has no mark for calls, the reply is either calls, or text that begins with no bracket or brace.
    Where answers have a mark, a reply is either calls or an answer. ``reasoning`` is what may come before.
    """
    if reasoning is not None and reasoning.answer_begins:
        calling = calls(dialect, tools, special, at_most_one=at_most_one)
        return either([calling, answer(any_text(), reasoning, special)])
    trigger = _trigger(dialect, tools, special)
    if trigger is None:
        return _calls_or_text(dialect, tools, special, at_most_one)
    mark = marker_parts(trigger, special)
    rest = _rest_of_calls(dialect, tools, special, trigger, at_most_one)
    # A text that may begin like the mark of reasoning would win over it.
    begin = [] if reasoning is None else marker_parts(reasoning.begin, special)[:1]
    first = _text_without_beginning(any_text(), begin[0]) if begin and begin[0].is_regular else any_text()
    first_call = sequence([until(mark, first), rest])
    if at_most_one:
        containing = sequence([any_text(), text_piece(trigger), any_text()])
        return either([sequence([first_call, without(any_text(), containing)]), first])
    more = repeated(sequence([until(mark), rest]))
    return either([sequence([first_call, more, any_text()]), first])


def _calls_piece(rules: str) -> Piece:
    return grammar_piece("start: calls\n" + rules)


def _calls_or_text(dialect: ToolDialect, tools: Sequence[Tool], special: Mapping[str, int], at_most_one: bool) -> Piece:
    ways = [calls(dialect, tools, special, at_most_one=True)]
    if not at_most_one:
        ways.append(calls(dialect, tools, special, at_most_one=False))
    # The first character has to tell: a lexer that still takes text for text does not see a call in it.
    return either([*ways, _text_without_beginning(any_text(), regex_piece(r"[\[{]"))])


def _text_without_beginning(text: Piece, beginning: Piece) -> Piece:
    return without(text, sequence([beginning, any_text()]))


# A dialect writes its marks into its rules itself. To have them without the first, which the free text before has
# already brought, it is told that the mark is a token of an id that nothing else in the rules has.


def _trigger(dialect: ToolDialect, tools: Sequence[Tool], special: Mapping[str, int]) -> str | None:
    """The mark that a call begins with, if the dialect has one."""
    sign = _sign(tools)
    for marker in dialect.markers:
        rules = dialect.grammar(tools, at_most_one=True, special={**special, marker: sign})
        if f"<[{sign}]>" in rules:
            return marker
    return None


def _rest_of_calls(
    dialect: ToolDialect, tools: Sequence[Tool], special: Mapping[str, int], trigger: str, at_most_one: bool
) -> Piece:
    """What follows the first mark of a call, or of a list of calls."""
    sign = _sign(tools)
    told = {**special, trigger: sign}
    rules = dialect.grammar(tools, at_most_one=at_most_one, special=told)
    if f"<[{sign}]>" not in rules.partition("\n")[0]:  # every call has a mark, so each is one for itself
        rules = dialect.grammar(tools, at_most_one=True, special=told)
    return _calls_piece(rules.replace(f"<[{sign}]>", ""))


def _sign(tools: Sequence[Tool]) -> int:
    written = msgspec.json.encode(tools).decode()
    return next(sign for sign in itertools.count(2**31) if f"<[{sign}]>" not in written)
