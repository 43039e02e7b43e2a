"""Which dialect a model's replies are read in: by the name a user gives, or by what its chat template teaches.

A new family is a file (``parsing`` says how it is written), a line in ``TOOL_DIALECTS`` or ``REASONING_DIALECTS``, and
other servers' names in the aliases. Families are asked in order whether they recognize a template, so one whose marks
are also another's stands before it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec

from quire.core.errors import ConfigError
from quire.text.dialects.deepseek import DeepSeek
from quire.text.dialects.dialect import Parser, ReasoningDialect, Tool, ToolDialect
from quire.text.dialects.generic_json import GenericJson
from quire.text.dialects.glm import Glm
from quire.text.dialects.harmony import HarmonyCalls, HarmonyReasoning
from quire.text.dialects.hermes import Hermes
from quire.text.dialects.json_list import JsonList
from quire.text.dialects.kimi_k2 import KimiK2
from quire.text.dialects.llama_json import LlamaJson
from quire.text.dialects.mistral import Mistral
from quire.text.dialects.plain import PlainParser
from quire.text.dialects.pythonic import Pythonic
from quire.text.dialects.qwen3_coder import Qwen3Coder
from quire.text.dialects.think import Think

TOOL_DIALECTS: tuple[ToolDialect, ...] = (
    Mistral(),
    JsonList(
        name="phi4_mini",
        begin="functools",
        other_begins=("<|tool_call|>",),
        other_ends=("<|/tool_call|>",),
        told_by=("functools[", "<|/tool|>"),
    ),
    JsonList(name="granite", begin="<|tool_call|>", other_begins=("<tool_call>",), told_by=("<|tool_call|>",)),
    JsonList(name="jamba", begin="<tool_calls>", end="</tool_calls>", told_by=("<tool_calls>[",)),
    JsonList(name="nemotron_json", begin="<TOOLCALL>", end="</TOOLCALL>", told_by=("<TOOLCALL>[",)),
    LlamaJson(),
    Pythonic(name="pythonic", told_by=("[func_name1(params_name1=",)),
    Pythonic(
        name="lfm2",
        begin="<|tool_call_start|>",
        end="<|tool_call_end|>",
        told_by=("List of tools: [", "<|tool_list_start|>", "<|tool_call_start|>"),
    ),
    HarmonyCalls(),
    KimiK2(),
    DeepSeek(name="deepseek_v3", has_fences=True),
    DeepSeek(name="deepseek_v31", has_fences=False),
    Qwen3Coder(),
    Qwen3Coder(name="seed_oss", begin="<seed:tool_call>", end="</seed:tool_call>", frame=""),
    Glm(name="glm45", line_break="\n"),
    Glm(name="glm47", line_break=""),
    Hermes(),
    GenericJson(),
)
_TOOL_ALIASES = {
    "deepseekv3": "deepseek_v3",
    "deepseekv31": "deepseek_v31",
    "glm": "glm45",
    "granite4": "hermes",
    "gpt-oss": "harmony",
    "gpt_oss": "harmony",
    "hunyuan_a13b": "jamba",
    "ling3": "glm47",
    "llama3": "llama3_json",
    "llama4_json": "llama3_json",
    "llama4_pythonic": "pythonic",
    "openai": "harmony",
    "phi4_mini_json": "phi4_mini",
    "poolside_v1": "glm47",
    "qwen": "hermes",
    "qwen25": "hermes",
    "qwen3": "hermes",
    "qwen3_xml": "qwen3_coder",
    "step3p5": "qwen3_coder",
}
REASONING_DIALECTS: tuple[ReasoningDialect, ...] = (
    Think(
        name="granite",
        begin="Here is my thought process:",
        end="Here is my response:",
        other_begins=("Here's my thought process:",),
        other_ends=("Here's my response:",),
        told_by=("Here is my thought process:",),
    ),
    HarmonyReasoning(),
    Think(name="mistral", begin="[THINK]", end="[/THINK]", told_by=("[/THINK]",)),
    Think(name="seed_oss", begin="<seed:think>", end="</seed:think>", told_by=("</seed:think>",)),
    Think(name="kimi", begin="◁think▷", end="◁/think▷", told_by=("◁/think▷",)),
    Think(
        name="granite3_3",
        begin="<think>",
        end="</think>",
        answer=("<response>", "</response>"),
        told_by=("<think></think>", "<response></response>"),
    ),
    Think(
        name="hunyuan_a13b",
        begin="<think>",
        end="</think>",
        answer=("<answer>", "</answer>"),
        told_by=("</think>", "<answer>"),
    ),
    Think(name="think", begin="<think>", end="</think>", told_by=("</think>",)),
    Think(name="deepseek_r1", begin="<think>", end="</think>", is_assumed=True),
)
_REASONING_ALIASES = {
    "deepseek-r1": "deepseek_r1",
    "ernie45": "granite3_3",
    **dict.fromkeys(
        (
            *("deepseek-v3", "deepseek_v3", "glm45", "holo2", "interns1", "kimi_k2", "minimax", "minimax_m2"),
            *("nano_v3", "nemotron_v3", "olmo3", "qwen3", "qwen3-thinking", "step3"),
        ),
        "think",
    ),
    "gpt-oss": "harmony",
    "gpt_oss": "harmony",
    "openai_gptoss": "harmony",
}

_CODE = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_TOOLS = re.compile(r"(?<![\w.])tools(?!\w)")


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
        calls = self.tools if tools else None
        rest: Parser = PlainParser() if calls is None else calls.parser(tools)
        if self.reasoning is None:
            return rest
        return self.reasoning.parser(self.reasoning.is_open(prompt), rest, () if calls is None else calls.markers[:1])


def choose(tool_call_parser: str, reasoning_parser: str, template: str | None) -> Dialects:
    """The dialects of these names; ``auto`` looks at the template, ``none`` reads nothing out of replies.

    A template that takes no tools gets Hermes' way to call them, the one most models have seen: it is taught in the
    conversation (``taught``), whatever the model may have learnt beside. One that takes tools, but shows no known way,
    gets bare JSON (``generic_json``). Where a call is required, constrained decoding makes any model write either.
    Raises ConfigError for an unknown name.
    """
    tools, reasoning = _by_name(TOOL_DIALECTS, _TOOL_ALIASES), _by_name(REASONING_DIALECTS, _REASONING_ALIASES)
    if tool_call_parser == "auto":
        chosen_tools = None if template is None else _tools_of(template)
    else:
        chosen_tools = _named("--tool-call-parser", tool_call_parser, tools)
    if reasoning_parser == "auto":
        chosen_reasoning = None if template is None else _recognized(REASONING_DIALECTS, template)
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


def _recognized(dialects: Sequence[D], template: str) -> D | None:
    return next((dialect for dialect in dialects if dialect.recognizes(template)), None)


def _tools_of(template: str) -> ToolDialect:
    if not _takes_tools(template):
        return Hermes()
    return _recognized(TOOL_DIALECTS, template) or GenericJson()


def _takes_tools(template: str) -> bool:
    """Whether it reads the variable ``tools``, and does not merely speak of tools."""
    return any(_TOOLS.search(_QUOTED.sub("", code)) for code in _CODE.findall(template))
