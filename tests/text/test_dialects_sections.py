"""What replies of the families with a section of calls say: DeepSeek and Kimi K2."""

from typing import Any

import pytest

from quire.text.dialects.dialect import Tool
from quire.text.dialects.events import Call, CallArguments, Reply
from quire.text.dialects.registry import choose

OFFERED = (Tool(name="get_weather"), Tool(name="now"), Tool(name="top_10"))
V3 = "deepseek_v3"
V31 = "deepseek_v31"
BEGIN, END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, SEP, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"


def read(read_reply: Any, family: str, text: str) -> Reply:
    return read_reply(lambda: choose(family, "none", None).parser(OFFERED, ""), text)


def v3(name: str, arguments: str) -> str:
    return f"{CALL}function{SEP}{name}\n```json\n{arguments}\n```{CALL_END}"


def v31(name: str, arguments: str) -> str:
    return f"{CALL}{name}{SEP}{arguments}{CALL_END}"


def kimi(call_id: str, arguments: str) -> str:
    return f"<|tool_call_begin|>{call_id}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>"


def section(*calls: str) -> str:
    return f"<|tool_calls_section_begin|>{''.join(calls)}<|tool_calls_section_end|>"


ARGUMENTS = '{"city": "a ``` b <｜tool▁call▁end｜> <|tool_call_end|>", "n": [1, {}]}'


@pytest.mark.parametrize("family", [V3, V31])
@pytest.mark.parametrize(
    "text",
    [
        f"Look: {BEGIN}{v3('get_weather', ARGUMENTS)}\n{v3('now', '{}')}{END}",
        f"Look: {BEGIN}{v31('get_weather', ARGUMENTS)}{v31('now', '{}')}{END}",
        # The section's markers forgotten, whitespace where none was taught.
        f"Look: {v31('get_weather', ARGUMENTS)}\n{v31('now', '{}')}",
        f"Look:\n{BEGIN}\n{CALL}function{SEP}get_weather\n\n```json\n  {ARGUMENTS}\n\n``` \n{CALL_END}\n\n"
        f"{CALL} now {SEP}\n{{}}\n{CALL_END}\n{END}\n",
        # No fence, and no name of it.
        f"Look: {BEGIN}{CALL}function{SEP}get_weather\n{ARGUMENTS}{CALL_END}{CALL}x{SEP}now\n```\n{{}}```{CALL_END}",
        # The reply ended before its last markers.
        f"Look: {BEGIN}{v31('get_weather', ARGUMENTS)}{CALL}now{SEP}{{}}",
    ],
)
def test_deepseek_calls(family: str, text: str, read_reply: Any) -> None:
    reply = read(read_reply, family, text)
    assert (reply.content.strip(), reply.calls) == ("Look:", (Call("get_weather", ARGUMENTS), Call("now", "{}")))


@pytest.mark.parametrize(
    "text",
    [
        BEGIN,
        f"{BEGIN} {END}",
        f"{BEGIN}{CALL}",
        f"{CALL}function{SEP}get_weather\n```json\n",
        f"{CALL}function{SEP}get_weather\n```json\nnothing\n```{CALL_END}",
        f"{CALL}{SEP}{{}}{CALL_END}",
        f"{CALL}function{SEP}\n```json\n{{}}",
        f"{CALL}now {{}}{CALL_END}",
        f"{CALL}{'x' * 1000}{SEP}{{}}",
    ],
)
def test_what_is_no_deepseek_call_is_content(text: str, read_reply: Any) -> None:
    assert read(read_reply, V3, text) == read(read_reply, V31, text) == Reply(text)


@pytest.mark.parametrize(
    ("call_id", "name"),
    [
        ("functions.get_weather:0", "get_weather"),
        ("functions.unheard_of:12", "unheard_of"),
        ("get_weather:3", "get_weather"),
        ("functions.get_weather", "get_weather"),
        ("functions_get_weather_3", "get_weather"),
        ("functionsget_weather5", "get_weather"),
        ("functions.top_10:1", "top_10"),
        ("functions_top_10_2", "top_10"),
        ("call_12ab", "call_12ab"),
    ],
)
def test_kimi_s_ids_name_functions(call_id: str, name: str, read_reply: Any) -> None:
    assert read(read_reply, "kimi_k2", section(kimi(call_id, ARGUMENTS))).calls == (Call(name, ARGUMENTS, call_id),)


@pytest.mark.parametrize(
    "text",
    [
        f"Look: {section(kimi('functions.now:0', '{}'), kimi('functions.now:1', '{}'))}",
        f"Look: {kimi('functions.now:0', '{}')}{kimi('functions.now:1', '{}')}",
        f"Look: {section(kimi('functions.now:0', '{}'), kimi('functions.now:1', '{}'))}".replace(
            "calls_sec", "call_sec"
        ),
        f"Look: {section(kimi(' functions.now:0 ', ' {} '), kimi('functions.now:1', '{}'))}".replace("><", ">\n<"),
        f"Look: {section(kimi('functions.now:0', '{}'))}\n{section(kimi('functions.now:1', '{}'))}",
    ],
)
def test_kimi_calls(text: str, read_reply: Any) -> None:
    calls = (Call("now", "{}", "functions.now:0"), Call("now", "{}", "functions.now:1"))
    assert read(read_reply, "kimi_k2", text) == Reply("Look:", None, calls)


@pytest.mark.parametrize(
    "text",
    [
        section(),
        section("<|tool_call_begin|>"),
        section(kimi("", "{}")),
        section(kimi("functions.now:0", "")),
        section(kimi("functions.now:0", "[]")),
    ],
)
def test_what_is_no_kimi_call_is_content(text: str, read_reply: Any) -> None:
    assert read(read_reply, "kimi_k2", text) == Reply(text)


@pytest.mark.parametrize(("family", "call"), [(V3, v3), (V31, v31), ("kimi_k2", kimi)])
def test_arguments_are_told_while_they_are_written(family: str, call: Any) -> None:
    parser = choose(family, "none", None).parser(OFFERED, "")
    text = call("now", '{"a": "long text"}')
    told = [parser.push(char) for char in text]
    assert told[text.index("ng te")] == [CallArguments(0, "n")]
