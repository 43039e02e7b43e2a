"""Grammars hold what the parsers read, and nothing that is no call of the tools."""

import json

import pytest
from llguidance import LLMatcher, LLTokenizer
from llguidance._tokenizer import TokenizerWrapper

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


class Bytes:
    """A tokenizer of 256 bytes and special tokens."""

    bos_token_id = None
    eos_token_id = 256

    def __init__(self, special: tuple[str, ...]) -> None:
        self.ids = {name: 257 + i for i, name in enumerate(special)}
        self.tokens = [bytes([i]) for i in range(256)] + [name.encode() for name in ("<eos>", *special)]
        self.special_token_ids = list(range(256, 257 + len(special)))

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)

    def encode(self, text: str) -> list[int]:
        """Special tokens where their names stand."""
        ids: list[int] = []
        while text:
            name = next((name for name in self.ids if text.startswith(name)), None)
            ids += [self.ids[name]] if name else self(text[0])
            text = text[len(name) if name else 1 :]
        return ids


def accepts(family: ToolDialect, special: tuple[str, ...], text: str, at_most_one: bool = False) -> bool:
    """Whether the text, and no more than it, is what the family's grammar asks for."""
    bytes_ = Bytes(special)
    tokenizer = LLTokenizer(TokenizerWrapper(bytes_))
    rules = family.grammar(TOOLS, at_most_one=at_most_one, special=bytes_.ids)
    grammar = LLMatcher.grammar_from_lark(f"start: calls\n{rules}")
    assert LLMatcher.validate_grammar(grammar, tokenizer) == ""
    matcher = LLMatcher(tokenizer, grammar)
    ids = bytes_.encode(text)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


JSON = '{"name": "add", "arguments": {"a": 1, "b": "é\\"<", "c": true}}'
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
def test_what_the_grammar_makes_the_parser_reads(family: ToolDialect, is_special: bool) -> None:
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


def test_newer_mistral_tokenizers_have_names_before_arguments() -> None:
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
def test_keywords_come_in_the_schema_s_order(keywords: str, is_call: bool) -> None:
    family = next(family for family in TOOL_DIALECTS if family.name == "pythonic")
    assert accepts(family, (), f"[add({keywords})]") == is_call


def test_a_schema_that_is_none_is_refused() -> None:
    family = next(family for family in TOOL_DIALECTS if family.name == "pythonic")
    with pytest.raises(InvalidRequest, match="'odd' are no JSON schema"):
        family.grammar([Tool(name="odd", parameters={"properties": [1]})], at_most_one=True, special={})


def test_what_cannot_be_enforced_is_left_out_unless_it_is_strict() -> None:
    family = next(family for family in TOOL_DIALECTS if family.name == "hermes")
    parameters = {"type": "object", "properties": {"a": {"type": "string", "format": "no-such-format"}}}
    tokenizer = LLTokenizer(TokenizerWrapper(Bytes(())))
    for strict in (False, True):
        tool = Tool(name="odd", parameters=parameters, strict=strict)
        rules = family.grammar([tool], at_most_one=True, special={})
        grammar = LLMatcher.grammar_from_lark(f"start: calls\n{rules}")
        assert bool(LLMatcher.validate_grammar(grammar, tokenizer)) == strict
