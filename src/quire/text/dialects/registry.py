"""Which dialect a model's replies are read in: by the name a user gives, or by what its chat template teaches.

A new family is a file (``parsing`` says how it is written), one line in ``_TOOLS`` or ``_REASONING``, and its other
servers' names in the aliases. Families are asked in order whether they recognize a template, so one whose marks are
also another's stands before it.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec

from quire.core.errors import ConfigError
from quire.text.dialects.dialect import Parser, ReasoningDialect, Tool, ToolDialect
from quire.text.dialects.hermes import Hermes
from quire.text.dialects.plain import PlainParser
from quire.text.dialects.think import Think

_TOOLS: tuple[ToolDialect, ...] = (Hermes(),)
_TOOL_ALIASES = {"qwen": "hermes", "qwen25": "hermes", "qwen2_5": "hermes", "qwen3": "hermes"}
_FALLBACK = _TOOLS[0]

_REASONING: tuple[ReasoningDialect, ...] = (
    Think(name="think", begin="<think>", end="</think>", told_by=("<think>", "</think>")),
)
_REASONING_ALIASES = dict.fromkeys(("qwen3", "deepseek_r1", "deepseek-r1", "glm45", "kimi_k2"), "think")


class Dialects(msgspec.Struct, frozen=True):
    """How one model's replies are read; None where it has no way to write such a thing."""

    tools: ToolDialect | None = None
    reasoning: ReasoningDialect | None = None

    @property
    def markers(self) -> tuple[str, ...]:
        """Special tokens that a parser must see, though they are not shown."""
        found = (*(self.tools.markers if self.tools else ()), *(self.reasoning.markers if self.reasoning else ()))
        return tuple(dict.fromkeys(found))

    def parser(self, tools: Sequence[Tool], prompt: str) -> Parser:
        """A parser of one reply to ``prompt``, a rendered template; without tools, calls are content."""
        rest: Parser = self.tools.parser(tools) if self.tools is not None and tools else PlainParser()
        return rest if self.reasoning is None else self.reasoning.parser(self.reasoning.is_open(prompt), rest)


def choose(tool_call_parser: str, reasoning_parser: str, template: str | None) -> Dialects:
    """The dialects of these names; ``auto`` looks at the template, ``none`` reads nothing out of replies.

    A template that shows no known way to call tools gets Hermes' way, the one most models have seen: it is taught in
    the conversation (``taught``), and where a call is required, constrained decoding makes any model write it. Raises
    ConfigError for an unknown name.
    """
    tools, reasoning = _by_name(_TOOLS, _TOOL_ALIASES), _by_name(_REASONING, _REASONING_ALIASES)
    if tool_call_parser == "auto":
        chosen_tools = _recognized(_TOOLS, template) or (_FALLBACK if template is not None else None)
    else:
        chosen_tools = _named("--tool-call-parser", tool_call_parser, tools)
    if reasoning_parser == "auto":
        chosen_reasoning = _recognized(_REASONING, template)
    else:
        chosen_reasoning = _named("--reasoning-parser", reasoning_parser, reasoning)
    return Dialects(chosen_tools, chosen_reasoning)


class _Dialect(Protocol):
    @property
    def name(self) -> str: ...

    def recognizes(self, template: str) -> bool: ...


D = TypeVar("D", bound=_Dialect)


def _by_name(dialects: Sequence[D], aliases: Mapping[str, str]) -> dict[str, D]:
    own = {dialect.name: dialect for dialect in dialects}
    return own | {alias: own[name] for alias, name in aliases.items()}


def _named(flag: str, name: str, known: Mapping[str, D]) -> D | None:
    if name == "none":
        return None
    if name not in known:
        raise ConfigError(f"{flag} is {name!r}: it must be auto, none, or one of {', '.join(sorted(known))}.")
    return known[name]


def _recognized(dialects: Sequence[D], template: str | None) -> D | None:
    return next((dialect for dialect in dialects if template is not None and dialect.recognizes(template)), None)
