"""What replies of the families with a tag for each argument say: Qwen3-Coder and GLM."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.core.errors import InvalidRequest
from quire.text.dialects.dialect import Tool
from quire.text.dialects.events import Call, CallArguments, CallBegun, Event, Reply
from quire.text.dialects.registry import choose

OFFERED = (
    Tool(
        name="get_weather",
        parameters={
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "options": {"type": "object"},
                "unit": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
        },
    ),
    Tool(name="now"),
)


def read(read_reply: Any, family: str, text: str) -> Reply:
    return read_reply(lambda: choose(family, "none", None).parser(OFFERED, ""), text)


def qwen(name: str, **arguments: str) -> str:
    parameters = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"


def glm(name: str, **arguments: str) -> str:
    pairs = "".join(f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n" for key, value in arguments.items())
    return f"<tool_call>{name}\n{pairs}</tool_call>"


def seed(name: str, **arguments: str) -> str:
    parameters = "".join(f"<parameter={key}>{value}</parameter>\n" for key, value in arguments.items())
    return f"<seed:tool_call>\n<function={name}>\n{parameters}</function>\n</seed:tool_call>"


WRITERS = {"qwen3_coder": qwen, "seed_oss": seed, "glm45": glm, "glm47": lambda *a, **k: glm(*a, **k).replace("\n", "")}


@pytest.mark.parametrize("family", WRITERS)
def test_arguments_are_typed(family: str, read_reply: Any) -> None:
    text = WRITERS[family]("get_weather", city="5", days="3", options='{"a": [1, "</x>"]}', unit="null", more="[1]")
    arguments = '{"city": "5", "days": 3, "options": {"a": [1, "</x>"]}, "unit": null, "more": [1]}'
    assert read(read_reply, family, text) == Reply("", None, (Call("get_weather", arguments),))


@pytest.mark.parametrize("family", WRITERS)
def test_calls_and_content_between_them(family: str, read_reply: Any) -> None:
    call = WRITERS[family]
    text = f"Look:\n{call('now')}{call('unheard_of', a='b')}\nThere.\n"
    calls = (Call("now", "{}"), Call("unheard_of", '{"a": "b"}'))
    assert read(read_reply, family, text) == Reply("Look:\n\nThere.\n", None, calls)


@pytest.mark.parametrize(
    ("value", "city"),
    [
        ("\nParis\n", "Paris"),
        ("Paris", "Paris"),
        ("\n\n  Paris \n\n", "\n  Paris \n"),
        ("\n\n", ""),
        ("\n", ""),
        ("", ""),
        ("\n\n\n", "\n"),
        ('\n"a" \\ <b> </para> é\n', '"a" \\ <b> </para> é'),
        ("\nan inline <parameter=x> and </function>\n", "an inline <parameter=x> and </function>"),
    ],
)
def test_qwen_frames_values_with_one_line_break(value: str, city: str, read_reply: Any) -> None:
    text = f"<tool_call>\n<function=get_weather>\n<parameter=city>{value}</parameter>\n</function>\n</tool_call>"
    (call,) = read(read_reply, "qwen3_coder", text).calls
    assert json.loads(call.arguments) == {"city": city}


@pytest.mark.parametrize("value", ["\nParis\n", " Paris ", "", "a <arg_key> </tool_call> b"])
def test_glm_frames_values_with_nothing(value: str, read_reply: Any) -> None:
    (call,) = read(read_reply, "glm45", glm("get_weather", city=value)).calls
    assert json.loads(call.arguments) == {"city": value}


def test_order_is_the_model_s(read_reply: Any) -> None:
    (call,) = read(read_reply, "qwen3_coder", qwen("get_weather", days="1", city="x")).calls
    assert call.arguments == '{"days": 1, "city": "x"}'


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        # No marker around an offered function.
        (
            "So:\n<function=get_weather>\n<parameter=city>\nx\n</parameter>\n</function>",
            Reply("So:", None, (Call("get_weather", '{"city": "x"}'),)),
        ),
        ("<function=other>\n</function>", Reply("<function=other>\n</function>")),
        # A parameter that is not closed.
        (
            "<tool_call><function=get_weather>\n<parameter=days>\n1\n<parameter=city>\nx\n</function></tool_call>",
            Reply("", None, (Call("get_weather", '{"days": 1, "city": "x"}'),)),
        ),
        # A function that is not closed.
        (
            "<tool_call>\n<function=now>\n</tool_call>\nDone",
            Reply("Done", None, (Call("now", "{}"),)),
        ),
        (
            "<tool_call>\n<function=now>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
            Reply("", None, (Call("now", "{}"), Call("now", "{}"))),
        ),
        # Two functions within one marker.
        (
            "<tool_call><function=now></function><function=now></function></tool_call>",
            Reply("", None, (Call("now", "{}"), Call("now", "{}"))),
        ),
        # What is no parameter.
        (
            "<tool_call><function=get_weather>\nwell: <parameter=city>x</parameter></function></tool_call>",
            Reply("well: ", None, (Call("get_weather", '{"city": "x"}'),)),
        ),
        (
            "<tool_call><function=get_weather><parameter=\n><parameter=days>1</parameter></function></tool_call>",
            Reply("<parameter=\n>", None, (Call("get_weather", '{"days": 1}'),)),
        ),
    ],
)
def test_qwen_forgives_missing_tags(text: str, reply: Reply, read_reply: Any) -> None:
    assert read(read_reply, "qwen3_coder", text) == reply


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("<tool_call>now</tool_call>", Reply("", None, (Call("now", "{}"),))),
        ("<tool_call>\nnow\n\n</tool_call>", Reply("", None, (Call("now", "{}"),))),
        (
            "<tool_call>get_weather\n<arg_key> city </arg_key>\n\n<arg_value>x</arg_value> and\n</tool_call>",
            Reply("and", None, (Call("get_weather", '{"city": "x"}'),)),
        ),
        (
            "<tool_call>get_weather<arg_key>city</arg_key>x<arg_key>days</arg_key><arg_value>1</arg_value></tool_call>",
            Reply("<arg_key>city</arg_key>x", None, (Call("get_weather", '{"days": 1}'),)),
        ),
        (
            "<tool_call>now\n<arg_key>a</arg_key><arg_value>b</arg_value><tool_call>now</tool_call>",
            Reply("", None, (Call("now", '{"a": "b"}'), Call("now", "{}"))),
        ),
    ],
)
def test_glm_forgives(text: str, reply: Reply, read_reply: Any) -> None:
    got = read(read_reply, "glm47", text)
    assert (got.content.strip(), got.calls) == (reply.content, reply.calls)


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>",
        "<tool_call>\n\n",
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        "<tool_call><function=",
        "<tool_call><function=now",
        "<tool_call><function=>\n</function></tool_call>",
        "<tool_call>say this to me</tool>",
        "<tool_call>say this to me</tool_call>",
        f"<tool_call><function={'x' * 1000}></function></tool_call>",
        f"<tool_call>{'x' * 1000}<arg_key>",
        "A <tool_call>? No.",
    ],
)
def test_what_is_no_call_is_content(family: str, text: str, read_reply: Any) -> None:
    assert read(read_reply, family, text) == Reply(text)


@pytest.mark.parametrize(
    ("family", "text", "arguments"),
    [
        ("qwen3_coder", "<tool_call>\n<function=get_weather>", "{"),
        ("qwen3_coder", "<tool_call>\n<function=get_weather>\n<parameter=city>\nPar", '{"city": "Par'),
        ("qwen3_coder", "<tool_call>\n<function=get_weather>\n<parameter=options>\n[1, ", '{"options": [1, '),
        ("qwen3_coder", "<tool_call>\n<function=get_weather>\n<parameter=days>\n1\n</parameter>\n", '{"days": 1'),
        ("glm45", "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Par", '{"city": "Par'),
        ("glm45", "<tool_call>get_weather\n<arg_key>days</arg_key>\n<arg_value>1</arg_value>", '{"days": 1'),
    ],
)
def test_a_call_that_is_cut_off_is_not_closed(family: str, text: str, arguments: str, read_reply: Any) -> None:
    assert read(read_reply, family, text) == Reply("", None, (Call("get_weather", arguments),))


@pytest.mark.parametrize("family", WRITERS)
def test_text_is_told_while_it_is_written(family: str) -> None:
    parser = choose(family, "none", None).parser(OFFERED, "")
    whole = WRITERS[family]("get_weather", city="a long story of many words", days="3")
    told: list[list[Event]] = [parser.push(char) for char in whole]
    (begun,) = [i for i, events in enumerate(told) if any(isinstance(event, CallBegun) for event in events)]
    assert begun < whole.index("city")
    pieces = [event.text for events in told for event in events if isinstance(event, CallArguments)]
    assert max(map(len, pieces)) < 12
    story = whole.index("a long")
    assert [event.text for event in told[story + 10]] == [whole[story + 10]]


# --- grammars ---------------------------------------------------------------------------------------------------------


STRICT = {
    "type": "object",
    "properties": {
        "word": {"type": "string", "minLength": 1, "maxLength": 3, "pattern": "^[a-z/]+$"},
        "one_of": {"enum": ["a", 1, None]},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "count": {"anyOf": [{"type": "integer", "minimum": 3}, {"$ref": "#/$defs/Flag"}]},
        "loose": {},
    },
    "required": ["word", "extra"],
    "additionalProperties": False,
    "$defs": {"Flag": {"type": "boolean"}},
}


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize(
    ("arguments", "is_accepted"),
    [
        ({"word": "a/b", "extra": "x"}, True),
        ({"word": "a", "one_of": "null", "maybe": "any\n</text>", "count": "3", "loose": "{", "extra": ""}, True),
        ({"word": "a", "one_of": "1", "count": "true", "extra": "x"}, True),
        ({"word": "", "extra": "x"}, False),
        ({"word": "abcd", "extra": "x"}, False),
        ({"word": "A", "extra": "x"}, False),
        ({"extra": "x"}, False),
        ({"word": "a"}, False),
        ({"extra": "x", "word": "a"}, False),
        ({"word": "a", "one_of": "b", "extra": "x"}, False),
        ({"word": "a", "count": "2", "extra": "x"}, False),
        ({"word": "a", "extra": "x", "other": "y"}, False),
        ({"word": "a", "extra": "</parameter>\n</arg_value>"}, False),
    ],
)
def test_grammars_hold_schemas(family: str, arguments: dict[str, str], is_accepted: bool, grammar_accepts: Any) -> None:
    tool = Tool(name="f", parameters=STRICT, strict=True)
    text = WRITERS[family]("f", **arguments)
    dialect = choose(family, "none", None).tools
    for special in ((), dialect.markers):
        assert grammar_accepts(dialect, (tool,), special, text) == is_accepted


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize(
    ("schema", "value"), [({"enum": ["a\x7fb"]}, "a\x7fb"), ({"type": "string", "pattern": "^a\\\rb$"}, "a\rb")]
)
def test_characters_that_lark_does_not_take_as_they_are_are_spelled_out(
    family: str, schema: dict[str, Any], value: str, grammar_accepts: Any
) -> None:
    tool = Tool(name="f", parameters={"properties": {"a": schema}, "required": ["a"]}, strict=True)
    dialect = choose(family, "none", None).tools
    assert grammar_accepts(dialect, (tool,), (), WRITERS[family]("f", a=value))


@pytest.mark.parametrize("value", ["<parameter=x>", "a\n<parameter=x>", "a\n</function>", "</function>"])
def test_qwen_s_values_do_not_hold_tags_that_would_end_them(value: str, grammar_accepts: Any, read_reply: Any) -> None:
    dialect = choose("qwen3_coder", "none", None).tools
    assert not grammar_accepts(dialect, OFFERED, (), qwen("get_weather", city=value))
    inline = f"a{value}".replace("\n", "")
    assert grammar_accepts(dialect, OFFERED, (), qwen("get_weather", city=inline))
    (call,) = read(read_reply, "qwen3_coder", qwen("get_weather", city=inline)).calls
    assert json.loads(call.arguments) == {"city": inline}


@pytest.mark.parametrize("family", WRITERS)
def test_a_tool_without_a_schema_takes_any_arguments(family: str, grammar_accepts: Any) -> None:
    dialect = choose(family, "none", None).tools
    assert grammar_accepts(dialect, (Tool(name="f"),), (), WRITERS[family]("f"))
    assert grammar_accepts(dialect, (Tool(name="f"),), (), WRITERS[family]("f", a="1", b="two"))


def test_what_cannot_be_held_is_refused_where_it_is_strict() -> None:
    dialect = choose("qwen3_coder", "none", None).tools
    assert dialect is not None
    parameters = {"anyOf": [{"required": ["a"]}, {"required": ["b"]}], "properties": {"a": {}, "b": {}}}
    dialect.grammar((Tool(name="f", parameters=parameters),), at_most_one=True, special={})
    with pytest.raises(InvalidRequest, match="'f' is strict, and anyOf at the root"):
        dialect.grammar((Tool(name="f", parameters=parameters, strict=True),), at_most_one=True, special={})


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("schema", "accepted", "rejected"),
    [
        ({"allOf": [{"$ref": "#/$defs/Word"}], "maxLength": 2}, ("ab",), ("abc", "1")),
        ({"$ref": "#/$defs/Word", "description": "a word"}, ("ab",), ("1",)),
        ({"anyOf": [{"minLength": 3}, {"enum": ["x"]}], "type": "string"}, ("abc", "x"), ("ab",)),
        ({"type": ["string", "integer"], "maxLength": 1}, ("a", "12"), ("ab",)),
        ({"type": "integer", "anyOf": [{"minimum": 5}, {"const": 1}]}, ("5", "1"), ("2", "x")),
        ({"anyOf": [{"$ref": "#/$defs/Loop"}, {"type": "integer"}]}, ("1",), ()),
    ],
)
def test_schemas_are_put_together(
    strict: bool, schema: dict[str, Any], accepted: tuple[str, ...], rejected: tuple[str, ...], grammar_accepts: Any
) -> None:
    definitions = {"Word": {"type": "string", "pattern": "^[a-z]*$"}, "Loop": {"allOf": [{"$ref": "#/$defs/Loop"}]}}
    parameters = {"properties": {"x": schema}, "required": ["x"], "$defs": definitions}
    tool = Tool(name="f", parameters=parameters, strict=strict)
    dialect = choose("qwen3_coder", "none", None).tools
    for text in accepted:
        assert grammar_accepts(dialect, (tool,), (), qwen("f", x=text))
    for text in rejected:
        is_pattern = "$defs" in str(schema) and text == "1"
        assert grammar_accepts(dialect, (tool,), (), qwen("f", x=text)) == (is_pattern and not strict)


def test_alternatives_that_multiply_are_refused() -> None:
    levels = {f"L{i}": {"anyOf": [{"$ref": f"#/$defs/L{i + 1}"}] * 50} for i in range(9)}
    parameters = {"properties": {"x": {"$ref": "#/$defs/L0"}}, "$defs": levels}
    dialect = choose("glm45", "none", None).tools
    assert dialect is not None
    with pytest.raises(InvalidRequest, match="more than 1024 alternatives"):
        dialect.grammar((Tool(name="f", parameters=parameters),), at_most_one=True, special={})


KEYWORDS = st.sampled_from(
    [
        *(
            "type",
            "enum",
            "const",
            "anyOf",
            "oneOf",
            "allOf",
            "$ref",
            "$defs",
            "properties",
            "required",
            "pattern",
            "x",
        ),
        *("minLength", "maxLength", "additionalProperties", "items", "not", "if"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "string", "x", "#/$defs/x", "^[", "#"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS, inner, max_size=4),
    max_leaves=12,
)


@given(parameters=st.dictionaries(KEYWORDS, JSON, max_size=4), strict=st.booleans())
def test_odd_schemas_are_refused_or_written(parameters: dict[str, Any], strict: bool) -> None:
    dialect = choose("qwen3_coder", "none", None).tools
    assert dialect is not None
    tool = Tool(name="f", parameters=parameters, strict=strict)
    with suppress(InvalidRequest):
        dialect.grammar((tool,), at_most_one=False, special={})
    parser = dialect.parser((tool,))
    assert Reply.of(parser.push(qwen("f", x="5", y="[")) + parser.finish()).calls
