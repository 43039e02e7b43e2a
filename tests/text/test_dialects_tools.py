"""What replies of each family say: calls, and the content around them."""

from itertools import count
from typing import Any

import pytest

from quire.text.dialects.dialect import Tool
from quire.text.dialects.events import Call, CallArguments, CallBegun, Content, Reply
from quire.text.dialects.mistral import Mistral, new_call_id
from quire.text.dialects.registry import choose

OFFERED = (Tool(name="add"), Tool(name="now"), Tool(name="get_weather"))
RAW = r'{"a": "é \"quoted\" \\ }<", "b": [1, {"c": null}]}'


def read(read_reply: Any, family: str, text: str) -> Reply:
    return read_reply(lambda: choose(family, "none", None).parser(OFFERED, ""), text)


def hermes(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


# --- calls as JSON, whatever stands around them -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "call"),
    [
        ('{"name": "add", "arguments": ' + RAW + "}", Call("add", RAW)),
        ('{"arguments": ' + RAW + ', "name": "add"}', Call("add", RAW)),
        ('{"name":"add","parameters":{}}', Call("add", "{}")),
        ('{"type": "function", "name": "add", "arguments": { "a" : 1 } }', Call("add", '{ "a" : 1 }')),
        ('{"name": "add", "id": "x7", "arguments": {}}', Call("add", "{}")),
        ('{"id": "x7", "name": "add", "arguments": {}}', Call("add", "{}")),
        ('{"name": "unheard_of", "arguments": {}}', Call("unheard_of", "{}")),
        ('{"name": "\\u0061dd", "arguments": {}}', Call("add", "{}")),
        ('{"name": "add"}', Call("add", "{}")),
        ('{"name": "add", "arguments": null}', Call("add", "{}")),
        ('{"name": "add", "arguments": ""}', Call("add", "{}")),
        ('{"name": "add", "arguments": "{\\"a\\": \\"\\u00e9\\\\n\\ud83d\\ude00\\"}"}', Call("add", '{"a": "é\\n😀"}')),
        ('{"arguments": " {\\"a\\": 1}", "name": "add"}', Call("add", '{"a": 1}')),
        ('{"name": "add", "arguments": {"code": "a\n\tb"}}', Call("add", '{"code": "a\\n\\u0009b"}')),
        # A bracket too few, and one too many.
        ('{"name": "add", "arguments": {"a": 1}', Call("add", '{"a": 1}')),
        ('{"name": "add", "arguments": {"a": 1}}}', Call("add", '{"a": 1}')),
        # The first of several counts.
        ('{"name": "add", "arguments": {}, "name": "now", "parameters": {"x": 1}, "more": [{}]}', Call("add", "{}")),
    ],
)
def test_one_call(written: str, call: Call, read_reply: Any) -> None:
    assert read(read_reply, "hermes", hermes(written)) == Reply("", None, (call,))


@pytest.mark.parametrize(
    "text",
    [
        "Nothing to call.",
        " spaces \n around\n\n",
        "<tool_call>",
        "<tool_call>\n{",
        "<tool_call> please </tool_call>",
        hermes("{'name': 'add', 'arguments': {}}"),
        hermes('{"name": "add", "arguments": [1]}'),
        hermes('{"name": "add", "arguments": 7}'),
        hermes('{"name": "add", "arguments": {a: 1}}'),
        hermes('{"name": "add", "arguments": "Paris"}'),
        hermes('{"name": "", "arguments": {}}'),
        hermes('{"name": 5, "arguments": {}}'),
        hermes('{"name": {"x": 1}, "arguments": {}}'),
        hermes('{"arguments": {"a": 1}}'),
        hermes("{}"),
        hermes('{"name" "add"}'),
        '<tool_call>{"name": "add", "arg',
        '<tool_call>{"name": "ad',
        '<tool_call>{"arguments": {"a": 1}, "nam',
    ],
)
def test_what_is_no_call_is_content_to_the_letter(text: str, read_reply: Any) -> None:
    assert read(read_reply, "hermes", text) == Reply(text)


def test_a_call_that_is_cut_off_keeps_what_was_written(read_reply: Any) -> None:
    cut = '<tool_call>\n{"name": "add", "arguments": {"a": "x\\'
    assert read(read_reply, "hermes", cut) == Reply("", None, (Call("add", '{"a": "x\\'),))


def test_arguments_that_break_off_end_at_what_no_json_has(read_reply: Any) -> None:
    text = '<tool_call>{"name": "add", "arguments": {"a": 1</tool_call>And more.'
    assert read(read_reply, "hermes", text) == Reply("And more.", None, (Call("add", '{"a": 1'),))


def test_whitespace_beside_calls_is_kept_between_content_only(read_reply: Any) -> None:
    call = hermes('{"name": "now"}')
    now = Call("now", "{}")
    assert read(read_reply, "hermes", f"\n\n{call}\n{call}\n") == Reply("", None, (now, now))
    assert read(read_reply, "hermes", f"Look:\n\n{call}\n") == Reply("Look:", None, (now,))
    assert read(read_reply, "hermes", f"{call}\nSo.\n") == Reply("So.\n", None, (now,))
    assert read(read_reply, "hermes", f"One\n{call}\ntwo") == Reply("One\n\ntwo", None, (now,))


@pytest.mark.parametrize(
    ("family", "call"),
    [
        ("phi4_mini", 'functools[{"name": "now", "arguments": {}}]'),
        ("granite", '<|tool_call|>[{"name": "now", "arguments": {}} ]'),
        ("hermes", '<tool_call>{"name": "now", "arguments": {}}'),
        ("json", '{"name": "now", "arguments": {}}'),
        ("pythonic", "[now()]"),
        ("qwen3_coder", "<function=now></function>"),
    ],
)
def test_a_call_without_an_end_leaves_the_space_behind_it(family: str, call: str, read_reply: Any) -> None:
    reply = read(read_reply, family, f"Wait:{call}\nDone.")
    assert (reply.content, [call.name for call in reply.calls]) == ("Wait:\nDone.", ["now"])


def test_a_call_that_fails_does_not_hide_the_next(read_reply: Any) -> None:
    text = '<tool_call><tool_call>{"x": <tool_call>{"name": "now"}</tool_call>'
    assert read(read_reply, "hermes", text) == Reply('<tool_call><tool_call>{"x":', None, (Call("now", "{}"),))


def test_arguments_are_told_while_they_are_written() -> None:
    parser = choose("hermes", "none", None).parser(OFFERED, "")
    assert parser.push('Sure. <tool_call>\n{"name": "add"') == [Content("Sure.")]
    assert parser.push(', "arguments": {') == []
    assert parser.push('"ci') == [CallBegun(0, "add"), CallArguments(0, '{"ci')]
    assert parser.push('ty": "Par') == [CallArguments(0, 'ty": "Par')]
    assert parser.push('is"}') == [CallArguments(0, 'is"}')]
    assert parser.push("}\n</tool_call>\n<tool_ca") == []
    assert parser.finish() == [Content(" \n<tool_ca")]


def test_content_is_not_held_back_beyond_what_may_be_a_marker() -> None:
    parser = choose("hermes", "none", None).parser(OFFERED, "")
    assert parser.push("a <tool") == [Content("a")]
    assert parser.push("box") == [Content(" <toolbox")]


# --- families ---------------------------------------------------------------------------------------------------------

ADD = Call("add", '{"a": 1}')
NOW = Call("now", "{}")
JSON = '{"name": "add", "arguments": {"a": 1}}'
JSON_NOW = '{"name": "now", "arguments": {}}'


@pytest.mark.parametrize(
    ("family", "text", "reply"),
    [
        ("hermes", f"<tool_call>[{JSON}, {JSON_NOW}]</tool_call>", Reply("", None, (ADD, NOW))),
        # Llama
        ("llama3_json", '{"name": "add", "parameters": {"a": 1}}', Reply("", None, (ADD,))),
        ("llama3_json", f"{JSON}; {JSON_NOW}", Reply("", None, (ADD, NOW))),
        ("llama3_json", f"{JSON}\n{JSON_NOW}", Reply("", None, (ADD, NOW))),
        ("llama3_json", f"<|python_tag|>{JSON};{JSON_NOW}", Reply("", None, (ADD, NOW))),
        ("llama3_json", f"Let me see. {JSON}", Reply("Let me see.", None, (ADD,))),
        ("llama3_json", '<|python_tag|>{"name": "x", "parameters": {}}', Reply("", None, (Call("x", "{}"),))),
        ("llama3_json", '{"name": "x", "parameters": {}}', Reply('{"name": "x", "parameters": {}}')),
        ("llama3_json", '{"name": "Ada", "born": 1815}', Reply('{"name": "Ada", "born": 1815}')),
        ("llama3_json", '{"sum": {"a": 1}}', Reply('{"sum": {"a": 1}}')),
        ("llama3_json", f"{JSON}; and", Reply("; and", None, (ADD,))),
        ("llama3_json", f"{JSON}; {{1}}", Reply("; {1}", None, (ADD,))),
        ("llama3_json", "<|python_tag|>print(1)", Reply("<|python_tag|>print(1)")),
        # Mistral
        ("mistral", f"[TOOL_CALLS][{JSON}, {JSON_NOW}]", Reply("", None, (ADD, NOW))),
        ("mistral", f"[TOOL_CALLS] [{JSON}]", Reply("", None, (ADD,))),
        ("mistral", f"[TOOL_CALLS] [TOOL_CALLS] [{JSON}]", Reply("", None, (ADD,))),
        ("mistral", f"[TOOL_CALLS][TOOL_CALLS]{JSON}, {JSON_NOW}", Reply(f", {JSON_NOW}", None, (ADD,))),
        ("mistral", '[TOOL_CALLS] [TOOL_CALLS] {"a": 1}', Reply('[TOOL_CALLS] [TOOL_CALLS] {"a": 1}')),
        ("mistral", '[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]now[ARGS]{}', Reply("", None, (ADD, NOW))),
        ("mistral", 'Yes.[TOOL_CALLS]add{"a": 1}', Reply("Yes.", None, (ADD,))),
        ("mistral", "[TOOL_CALLS]now[CALL_ID]Ab3dEf9hI[ARGS]{}", Reply("", None, (Call("now", "{}", "Ab3dEf9hI"),))),
        ("mistral", "[TOOL_CALLS] and [TOOL_CALLS]add[ARGS]", Reply("[TOOL_CALLS] and [TOOL_CALLS]add[ARGS]")),
        ("mistral", f"[TOOL_CALLS][{JSON}, oops]", Reply(", oops]", None, (ADD,))),
        # Granite
        ("granite", f"<|tool_call|>[{JSON}, {JSON_NOW}]", Reply("", None, (ADD, NOW))),
        ("granite", f"<tool_call>[{JSON}]", Reply("", None, (ADD,))),
        ("granite", f"<|tool_call|> {JSON}", Reply("", None, (ADD,))),
        ("granite", "<|tool_call|>[]", Reply("<|tool_call|>[]")),
        # Phi
        ("phi4_mini_json", f"functools[{JSON}, {JSON_NOW}]", Reply("", None, (ADD, NOW))),
        ("phi4_mini_json", f"<|tool_call|>[{JSON}]<|/tool_call|>", Reply("", None, (ADD,))),
        ("phi4_mini_json", "import functools\nfunctools[1]", Reply("import functools\nfunctools[1]")),
        ("jamba", f"So.\n<tool_calls>[\n{JSON},\n{JSON_NOW}\n]</tool_calls>", Reply("So.", None, (ADD, NOW))),
        ("nemotron_json", f"<TOOLCALL>[{JSON}]</TOOLCALL>", Reply("", None, (ADD,))),
        # Python
        ("pythonic", "[add(a=1), now()]", Reply("", None, (ADD, NOW))),
        ("pythonic", " [add(a=1),\n now( ), ]\n", Reply("", None, (ADD, NOW))),
        ("pythonic", "<|python_start|>[x(a=1)]<|python_end|>", Reply("", None, (Call("x", '{"a": 1}'),))),
        ("lfm2", "<|tool_call_start|>[add(a=1)]<|tool_call_end|>Done.", Reply("Done.", None, (ADD,))),
        ("pythonic", "[add(1)]", Reply("[add(1)]")),
        ("pythonic", "[x(a=1)] and [1, 2] and [now", Reply("[x(a=1)] and [1, 2] and [now")),
        ("pythonic", "[add(a=1), 2]", Reply(", 2]", None, (ADD,))),
        ("pythonic", "[add(a=1", Reply("", None, (Call("add", '{"a": 1'),))),
        ("pythonic", '[add(a="x', Reply("", None, (Call("add", '{"a": "x'),))),
        # Any
        ("json", f"[{JSON}, {JSON_NOW}]", Reply("", None, (ADD, NOW))),
        ("json", f"{JSON}", Reply("", None, (ADD,))),
        ("json", f"So: <tool_call>{JSON}</tool_call>", Reply("So:", None, (ADD,))),
        ("json", '[1, {"name": "x", "arguments": {}}]', Reply('[1, {"name": "x", "arguments": {}}]')),
    ],
)
def test_families(family: str, text: str, reply: Reply, read_reply: Any) -> None:
    if family == "mistral":
        ids = [call.id for call in reply.calls]
        dialect = Mistral(new_id=lambda: "")
        told = read_reply(lambda: dialect.parser(OFFERED), text)
        bare = tuple(Call(call.name, call.arguments, call.id or None) for call in told.calls)
        assert Reply(told.content, None, bare) == reply and [call.id for call in bare] == ids
    else:
        assert read(read_reply, family, text) == reply


@pytest.mark.parametrize(
    ("literal", "told"),
    [
        ("'it\\'s'", '"it\'s"'),
        ('"say \\"é\\""', '"say \\"é\\""'),
        ("'''a\n'b' \"c\"'''", '"a\\n\'b\' \\"c\\""'),
        ("''", '""'),
        (r"'\x41\u00e9\ud83d\ude00\U0001F600\d\0'", '"Aé😀😀\\\\d\\u0000"'),
        (r"'\ud83d!'", '"\ufffd!"'),
        ("[1, -2.5, 1e3, (True, None), {}, []]", "[1, -2.5, 1e3, [true, null], {}, []]"),
        ("{'a': {'b': [false, null,],},}", '{"a": {"b": [false, null]}}'),
        ("1_000", "1000"),
        ("0x10", "16"),
        (".5", "0.5"),
        ("07", "7"),
        ("{'a', 'b'}", '["a", "b"]'),
        ("{1}", "[1]"),
        ("{('a', 1), }", '[["a", 1]]'),
        ("{'a': {'b', 2}}", '{"a": ["b", 2]}'),
    ],
)
def test_python_s_literals_become_json(literal: str, told: str, read_reply: Any) -> None:
    reply = read(read_reply, "pythonic", f"[add(a={literal}, b=1)]")
    assert reply == Reply("", None, (Call("add", f'{{"a": {told}, "b": 1}}'),))


@pytest.mark.parametrize(
    "literal", ["x", "f()", "1 + 1", "inf", "f'{x}'", "[" * 65, "{1: 2}", "{'a', 'b': 1}", "{x}", "9" * 65 + "_0"]
)
def test_what_is_no_literal_breaks_the_call_off(literal: str, read_reply: Any) -> None:
    reply = read(read_reply, "pythonic", f"[add(a={literal})]")
    assert [call.name for call in reply.calls] == ["add"]
    assert reply.calls[0].arguments.startswith('{"a": ') and not reply.calls[0].arguments.endswith("}")
    assert reply.content


def test_mistral_s_calls_have_ids_of_nine_letters_and_digits() -> None:
    numbers = count()
    parser = Mistral(new_id=lambda: f"id{next(numbers)}").parser(OFFERED)
    calls = Reply.of(parser.push(f"[TOOL_CALLS][{JSON}, {JSON_NOW}]") + parser.finish()).calls
    assert [call.id for call in calls] == ["id0", "id1"]
    ids = {new_call_id() for _ in range(100)}
    assert len(ids) == 100 and all(len(each) == 9 and each.isascii() and each.isalnum() for each in ids)
