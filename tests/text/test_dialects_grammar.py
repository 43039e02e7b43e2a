"""Grammars hold what the parsers read, and nothing that is no call of the tools."""

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from quire.core.errors import InvalidRequest
from quire.text.dialects.dialect import Tool, ToolDialect
from quire.text.dialects.events import Event, Reply
from quire.text.dialects.registry import TOOL_DIALECTS, Dialects

TOOLS = (
    Tool(
        name="add",
        parameters={
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/$defs/word"}, "c": {"type": "boolean"}},
            "required": ["a"],
            "additionalProperties": False,
            "$defs": {"word": {"type": "string"}},
        },
    ),
    Tool(name="now", parameters={"type": "object", "properties": {}, "additionalProperties": False}),
    Tool(name="any"),
)


@pytest.fixture
def accepts(grammar_accepts: Any) -> Any:
    """(family, special tokens, text) -> whether its grammar for calls of TOOLS accepts just that."""
    return lambda family, special, text, **kwargs: grammar_accepts(family, TOOLS, special, text, **kwargs)


ARGUMENTS = '{"a": 1, "b": "é\\"<", "c": true}'
JSON = f'{{"name": "add", "arguments": {ARGUMENTS}}}'
NOW = '{"name": "now", "arguments": {}}'
ADD_NOW = {
    "mistral": f"[TOOL_CALLS][{JSON}, {NOW}]",
    "phi4_mini": f"functools[{JSON}, {NOW}]",
    "jamba": f"<tool_calls>[{JSON}, {NOW}]</tool_calls>",
    "nemotron_json": f"<TOOLCALL>[{JSON}, {NOW}]</TOOLCALL>",
    "granite": f"<|tool_call|>[{JSON}, {NOW}]",
    "llama3_json": f"{JSON}; {NOW}".replace("arguments", "parameters"),
    "pythonic": '[add(a=1, b="é\\"<", c=True), now()]',
    "lfm2": '<|tool_call_start|>[add(a=1, b="é\\"<", c=True), now()]<|tool_call_end|>',
    "kimi_k2": (
        f"<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{ARGUMENTS}"
        "<|tool_call_end|><|tool_call_begin|>functions.now:12<|tool_call_argument_begin|>{}<|tool_call_end|>"
        "<|tool_calls_section_end|>"
    ),
    "deepseek_v3": (
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{ARGUMENTS}\n```<｜tool▁call▁end｜>\n"
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "deepseek_v31": (
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{ARGUMENTS}<｜tool▁call▁end｜>"
        "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "qwen3_coder": (
        '<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\né"<\n</parameter>\n'
        "<parameter=c>\ntrue\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>"
    ),
    "seed_oss": (
        '<seed:tool_call>\n<function=add>\n<parameter=a>1</parameter>\n<parameter=b>é"<</parameter>\n'
        "<parameter=c>true</parameter>\n</function>\n</seed:tool_call>\n<seed:tool_call>\n<function=now>\n</function>\n"
        "</seed:tool_call>"
    ),
    "glm45": (
        '<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n<arg_key>b</arg_key>\n<arg_value>é"<</arg_value>'
        "\n<arg_key>c</arg_key>\n<arg_value>true</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>"
    ),
    "glm47": (
        '<tool_call>add<arg_key>a</arg_key><arg_value>1</arg_value><arg_key>b</arg_key><arg_value>é"<</arg_value>'
        "<arg_key>c</arg_key><arg_value>true</arg_value></tool_call><tool_call>now</tool_call>"
    ),
    "hermes": f"<tool_call>\n{JSON}\n</tool_call>\n<tool_call>\n{NOW}\n</tool_call>",
    "json": f"[{JSON}, {NOW}]",
}
"""The same two calls in every dialect."""
FAMILIES = [family for family in TOOL_DIALECTS if family.name in ADD_NOW]


def has_special(family: ToolDialect) -> tuple[str, ...]:
    """A tokenizer's special tokens, of those that stand in the family's example."""
    return tuple(mark for mark in family.markers if mark in ADD_NOW[family.name])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("is_special", [False, True])
def test_what_the_grammar_makes_the_parser_reads(family: ToolDialect, is_special: bool, accepts: Any) -> None:
    text = ADD_NOW[family.name]
    special = has_special(family) if is_special else ()
    assert accepts(family, special, text)
    assert not accepts(family, special, text, at_most_one=True)
    assert not accepts(family, special, text.replace("now", "then"))
    assert not accepts(family, special, text.replace("1", '"one"'))
    assert not accepts(family, special, "Hello.")
    reply = Reply.of(calls_of(family, text))
    assert [(call.name, json.loads(call.arguments)) for call in reply.calls] == [
        ("add", {"a": 1, "b": 'é"<', "c": True}),
        ("now", {}),
    ]
    assert reply.content == ""


def calls_of(family: ToolDialect, text: str) -> list[Event]:
    parser = Dialects(family, None).parser(TOOLS, "")
    return parser.push(text) + parser.finish()


def test_newer_mistral_tokenizers_have_names_before_arguments(accepts: Any) -> None:
    family = next(family for family in TOOL_DIALECTS if family.name == "mistral")
    special = ("[TOOL_CALLS]", "[ARGS]")
    one, two = '[TOOL_CALLS]add[ARGS]{"a": 1}', "[TOOL_CALLS]now[ARGS]{}"
    assert accepts(family, special, one + two)
    assert accepts(family, special, one, at_most_one=True)
    assert not accepts(family, special, one + two, at_most_one=True)
    assert not accepts(family, special, f"[TOOL_CALLS][{NOW}]")


@pytest.mark.parametrize(
    ("keywords", "is_call"),
    [
        ("a=1", True),
        ("a=1, c=False", True),
        ('a=1, b="x"', True),
        ("", False),
        ("c=True", False),
        ("a=1, d=2", False),
        ('b="x", a=1', False),
        ("a=1,", False),
    ],
)
def test_keywords_come_in_the_schema_s_order(keywords: str, is_call: bool, accepts: Any) -> None:
    family = next(family for family in TOOL_DIALECTS if family.name == "pythonic")
    assert accepts(family, (), f"[add({keywords})]") == is_call


def test_a_schema_that_is_none_is_refused() -> None:
    family = next(family for family in TOOL_DIALECTS if family.name == "pythonic")
    with pytest.raises(InvalidRequest, match="'odd' are no JSON schema"):
        family.grammar([Tool(name="odd", parameters={"properties": [1]})], at_most_one=True, special={})


def test_what_cannot_be_enforced_is_left_out_unless_it_is_strict() -> None:
    family = next(family for family in TOOL_DIALECTS if family.name == "hermes")
    parameters = {"type": "object", "properties": {"a": {"type": "string", "format": "no-such-format"}}}
    tokenizer = LLTokenizer("byte")
    for strict in (False, True):
        tool = Tool(name="odd", parameters=parameters, strict=strict)
        rules = family.grammar([tool], at_most_one=True, special={})
        grammar = LLMatcher.grammar_from_lark(f"start: calls\n{rules}")
        assert bool(LLMatcher.validate_grammar(grammar, tokenizer)) == strict


@pytest.mark.parametrize("kind", [["object", "null"], None])
def test_arguments_are_an_object(kind: Any, grammar_accepts: Any) -> None:
    family = next(family for family in TOOL_DIALECTS if family.name == "hermes")
    tools = [Tool(name="any", parameters={"type": kind})]
    call = '<tool_call>\n{"name": "any", "arguments": %s}\n</tool_call>'
    assert [grammar_accepts(family, tools, (), call % arguments) for arguments in ("{}", "null")] == [True, False]
