"""GBNF's rules as a piece of grammar: what is regular becomes terminals, the rest rules.

GBNF knows characters only. A parser that looks at every character is too slow for answers of any length, so parts that
are regular are given to the lexer, as large as they can be. But a lexer takes as much as it can: ``[0-9]+ ws`` before a
rule that begins with whitespace would take that too, and the answer could never be finished. So a part becomes a
terminal only where nothing that may follow it could also make it longer; elsewhere it is taken apart, down to single
characters, which are never longer.

Law: what is accepted, GBNF accepts; and the other way round, except where one alternative of a rule is over when
another, which is not regular, goes on ("a" r | "ab" with r recursive): there the longer is taken.
"""

from collections.abc import Callable, Mapping
from functools import partial

from quire.text.grammar import gbnf
from quire.text.grammar.characters import Characters
from quire.text.grammar.gbnf import Either, Node, OneOf, Repeat, Rule, Sequence, Text, Token
from quire.text.grammar.gbnf_analysis import NONE, Analysis
from quire.text.grammar.lark import MAX_DEPTH, Piece, grammar_piece, literal, times


def gbnf_piece(rules: Mapping[str, Node], path: str) -> Piece:
    """The grammar of an answer that begins with the rule ``root``. Raises InvalidRequest if it is too large."""
    return _Writer(Analysis(rules, path)).piece()


class _Writer:
    """Writes Lark for rules: ``r3`` is the fourth of them, ``T3`` the same as a terminal; ``X3`` is a part of one."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._numbers = {name: i for i, name in enumerate(analysis.rules)}
        self._parts: dict[str, str] = {}
        """Terminals for parts of rules: what they say -> their names."""
        self._waiting: list[tuple[str, Callable[[], str]]] = []
        """Names that were used, and how to write what they say."""
        self._named: set[str] = set()
        self._depth = 0
        """How deep the parentheses are nested in what is being written."""

    def piece(self) -> Piece:
        lines = [f"start: {self._part(Rule(gbnf.ROOT), NONE)}"]
        while self._waiting:
            name, body = self._waiting.pop()
            self._depth = 0
            lines.append(f"{name}: {body()}")
        lines += [f"{name}: {body}" for body, name in self._parts.items()]
        return grammar_piece("\n".join(lines) + "\n")

    # --- as rules ---------------------------------------------------------------------------------------------------

    def _part(self, part: Node, follow: Characters) -> str:
        """A part in the body of a rule; ``follow`` may come after it."""
        if self._is_terminal([part], follow):
            return self._terminal([part])
        match part:
            case Rule(name):
                rules, after = self._analysis.rules, self._analysis.follow[name]
                return self._name(f"r{self._numbers[name]}", lambda: self._part_of_rule(rules[name], after))
            case Token(token_id, is_negated):
                return f"<[{'^' if is_negated else ''}{token_id}]>"
            case Either(parts):
                return self._group(lambda: " | ".join([self._part(one, follow) for one in parts]), "r")
            case Repeat(one, _, most):
                if most == 0:
                    return literal("")
                again = NONE if most == 1 else self._analysis.sketch(one).first
                return _repeated(self._part(one, follow | again), part)
            case Sequence(parts):
                return self._group(lambda: self._sequence(parts, follow), "r")
        raise AssertionError(f"{part} is one character, and a terminal everywhere")

    def _part_of_rule(self, part: Node, follow: Characters) -> str:
        return self._sequence(part.parts, follow) if isinstance(part, Sequence) else self._part(part, follow)

    def _sequence(self, parts: tuple[Node, ...], follow: Characters) -> str:
        """From the end on: the longest stretch that can be a terminal, else the last part by itself."""
        written: list[str] = []
        end = len(parts)
        while end > 0:
            start = end
            while start > 0 and self._analysis.is_regular(parts[start - 1]):
                start -= 1
            if start < end and self._is_terminal(parts[start:end], follow):
                written.append(self._terminal(parts[start:end]))
            else:
                start = end - 1
                written.append(self._part(parts[start], follow))
            follow = self._analysis.after(parts[start:end], follow)
            end = start
        return " ".join(reversed(written)) or literal("")

    # --- as terminals -----------------------------------------------------------------------------------------------

    def _is_terminal(self, parts: "list[Node] | tuple[Node, ...]", follow: Characters) -> bool:
        if not all(self._analysis.is_regular(part) for part in parts):
            return False
        return not self._analysis.sketch_of_sequence(parts).longer.meets(follow)

    def _terminal(self, parts: "list[Node] | tuple[Node, ...]") -> str:
        """A name, or a text or class of which the lexer makes a terminal itself."""
        depth, self._depth = self._depth, 0
        body = self._expression(parts[0] if len(parts) == 1 else Sequence(tuple(parts)))
        self._depth = depth
        if len(parts) == 1 and isinstance(parts[0], Rule | Text | OneOf):
            return body
        return self._parts.setdefault(body, f"X{len(self._parts)}")

    def _expression(self, part: Node) -> str:
        """A regular part in the body of a terminal."""
        match part:
            case Text(text):
                return literal(text)
            case OneOf(characters):
                return characters.as_regex()
            case Rule(name):
                return self._name(f"T{self._numbers[name]}", lambda: self._expression(self._analysis.rules[name]))
            case Sequence(parts):
                joined = partial(self._expressions, " ", parts)
                return self._group(joined, "T") if parts else literal("")
            case Either(parts):
                return self._group(partial(self._expressions, " | ", parts), "T")
            case Repeat(one, _, most):
                return literal("") if most == 0 else _repeated(self._expression(one), part)
        raise AssertionError(f"{part} is not regular")

    def _expressions(self, by: str, parts: tuple[Node, ...]) -> str:
        return by.join([self._expression(one) for one in parts])

    def _group(self, body: Callable[[], str], kind: str) -> str:
        """In parentheses; or, nested too deeply for those, by a name."""
        if self._depth == MAX_DEPTH:
            return self._name(f"{kind}_{len(self._named)}", body)
        self._depth += 1
        group = f"({body()})"
        self._depth -= 1
        return group

    def _name(self, name: str, body: Callable[[], str]) -> str:
        if name not in self._named:
            self._named.add(name)
            self._waiting.append((name, body))
        return name


def _repeated(body: str, repeat: Repeat) -> str:
    body = f"({body})" if isinstance(repeat.part, Repeat) else body  # nothing else is left open
    return body + times(repeat.least, repeat.most)
