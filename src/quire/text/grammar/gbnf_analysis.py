"""What can be known of GBNF's rules without running them: which are regular, what they begin with, what follows.

Each part has a sketch, made of those of its parts. Where a part is ambiguous its sketch says too much, never too
little: more that it may go on with than there is. Rules that use each other are gone over until nothing more is learnt.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import msgspec

from quire.core.errors import InvalidRequest
from quire.text.grammar.characters import Characters, one_of
from quire.text.grammar.gbnf import Either, Node, OneOf, Repeat, Rule, Sequence, Text, Token

MAX_WORK = 200_000
"""Sketches that are made for one grammar, about a second of them."""
NONE = Characters()


class Sketch(msgspec.Struct, frozen=True):
    """What is known of a part without running it."""

    is_nullable: bool
    first: Characters
    """What it may begin with."""
    longer: Characters
    """What could make a complete match of it longer; only of regular parts."""
    all: Characters
    """Every character in it; only of regular parts."""


_EMPTY = Sketch(True, NONE, NONE, NONE)


class Analysis:
    """Which rules are regular, what parts begin with, and what follows rules."""

    def __init__(self, rules: Mapping[str, Node], path: str) -> None:
        self.rules = rules
        self._path = path
        self._work_left = MAX_WORK
        self._users: dict[str, list[str]] = {name: [] for name in rules}
        for name, part in rules.items():
            for used in _used(part):
                self._users[used].append(name)
        order = self._regular_rules()
        self.regular = frozenset(order)
        self._known: dict[str, Sketch] = {name: Sketch(False, NONE, NONE, NONE) for name in rules}
        self._settle([*order, *(name for name in rules if name not in self.regular)])

    def is_regular(self, part: Node) -> bool:
        return all(rule in self.regular for rule in _used(part)) and not _has_token(part)

    def sketch(self, part: Node) -> Sketch:
        """Of any part, by what is known of the rules."""
        self._spend()
        match part:
            case Text(text):
                return _EMPTY if not text else Sketch(False, one_of(text[0]), NONE, one_of(text))
            case OneOf(characters):
                return Sketch(False, characters, NONE, characters)
            case Token():
                return Sketch(False, NONE, NONE, NONE)
            case Rule(name):
                return self._known[name]
            case Sequence(parts):
                return self.sketch_of_sequence(parts)
            case Either(parts):
                return self._either([self.sketch(one) for one in parts])
            case Repeat(one, least, most):
                return _EMPTY if most == 0 else self._repeat(self.sketch(one), least, most)

    def sketch_of_sequence(self, parts: Iterable[Node]) -> Sketch:
        whole = _EMPTY
        for part in parts:
            whole = self._then(whole, self.sketch(part))
        return whole

    def _then(self, a: Sketch, b: Sketch) -> Sketch:
        self._spend()
        both = a.all | b.all
        longer = b.longer | a.longer | b.first if b.is_nullable else b.longer
        if a.longer.meets(b.first):  # it is not certain where a ends, nor then where the whole does
            longer = both
        return Sketch(a.is_nullable and b.is_nullable, a.first | b.first if a.is_nullable else a.first, longer, both)

    def _either(self, parts: list[Sketch]) -> Sketch:
        first = longer = every = NONE
        is_ambiguous = False
        for part in parts:
            self._spend()
            is_ambiguous = is_ambiguous or part.first.meets(first)
            first, longer, every = first | part.first, longer | part.longer, every | part.all
        is_nullable = any(part.is_nullable for part in parts)
        if is_ambiguous:
            longer = every
        elif is_nullable:
            longer = longer | first
        return Sketch(is_nullable, first, longer, every)

    def _repeat(self, part: Sketch, least: int, most: int | None) -> Sketch:
        self._spend()
        is_nullable = least == 0 or part.is_nullable
        longer = part.longer
        if most == least and not longer.ranges:
            pass  # so many and no more: each begins where the one before must end
        elif most != 1:
            longer = part.all if part.longer.meets(part.first) else longer | part.first
        return Sketch(is_nullable, part.first, longer | part.first if is_nullable else longer, part.all)

    @cached_property
    def follow(self) -> Mapping[str, Characters]:
        """Rule -> the characters that may come after it."""
        follow = dict.fromkeys(self.rules, NONE)
        waiting = dict.fromkeys(self.rules)
        while waiting:
            name = next(iter(waiting))
            del waiting[name]
            for used, after in self._uses(self.rules[name], follow[name]):
                if (more := follow[used] | after) != follow[used]:
                    follow[used] = more
                    waiting[used] = None
        return follow

    def after(self, rest: Iterable[Node], follow: Characters) -> Characters:
        """What may come where ``rest`` stands, and ``follow`` behind it."""
        sketch = self.sketch_of_sequence(rest)
        return sketch.first | follow if sketch.is_nullable else sketch.first

    def _uses(self, part: Node, follow: Characters) -> list[tuple[str, Characters]]:
        """Rules that a part uses, with what may follow them there."""
        self._spend()
        match part:
            case Rule(name):
                return [(name, follow)]
            case Sequence(parts):
                found = []
                for one in reversed(parts):
                    found += self._uses(one, follow)
                    sketch = self.sketch(one)
                    follow = sketch.first | follow if sketch.is_nullable else sketch.first
                return found
            case Either(parts):
                return [use for one in parts for use in self._uses(one, follow)]
            case Repeat(one, _, most) if most != 0:
                return self._uses(one, follow if most == 1 else follow | self.sketch(one).first)
        return []

    def _regular_rules(self) -> list[str]:
        """Rules that neither use themselves nor tokens, nor a rule that does; each behind those that it uses."""
        num_unknown = {name: len(_used(part)) + _has_token(part) for name, part in self.rules.items()}
        ready = [name for name, num in num_unknown.items() if num == 0]
        order = []
        while ready:
            name = ready.pop()
            order.append(name)
            for user in self._users[name]:
                num_unknown[user] -= 1
                if num_unknown[user] == 0:
                    ready.append(user)
        return order

    def _settle(self, order: Iterable[str]) -> None:
        """Go over the rules until nothing more is learnt of them."""
        waiting = dict.fromkeys(order)
        while waiting:
            name = next(iter(waiting))
            del waiting[name]
            if (sketch := self.sketch(self.rules[name])) != self._known[name]:
                self._known[name] = sketch
                waiting |= dict.fromkeys(self._users[name])

    def _spend(self) -> None:
        self._work_left -= 1
        if self._work_left < 0:
            raise InvalidRequest(f"{self._path} is too large to be understood in time: simplify it.", param=self._path)


def _used(part: Node) -> set[str]:
    return {inner.name for inner in _walk(part) if isinstance(inner, Rule)}


def _has_token(part: Node) -> bool:
    return any(isinstance(inner, Token) for inner in _walk(part))


def _walk(part: Node) -> Iterator[Node]:
    """A part and all that it is made of, but for what rules say."""
    waiting = [part]
    while waiting:
        inner = waiting.pop()
        yield inner
        match inner:
            case Sequence(parts) | Either(parts):
                waiting += parts
            case Repeat(one):
                waiting.append(one)
