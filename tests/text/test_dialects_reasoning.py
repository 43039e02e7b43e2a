"""Where reasoning begins and ends, and what of it is layout."""

from typing import Any

import pytest

from quire.text.dialects import deepseek, kimi_k2
from quire.text.dialects.dialect import Tool
from quire.text.dialects.events import Call, Content, Reasoning, Reply
from quire.text.dialects.registry import choose

OFFERED = (Tool(name="now"),)


@pytest.mark.parametrize(
    ("family", "prompt", "text", "reply"),
    [
        ("qwen3", "", "<think>\nHm.\n\nYes.\n</think>\n\nFour.\n", Reply("Four.\n", "Hm.\n\nYes.")),
        ("qwen3", "", "\n<think>Hm.</think>Four.", Reply("Four.", "Hm.")),
        ("qwen3", "", "<think>\n\n</think>\n\nFour.", Reply("Four.")),
        ("qwen3", "", "Four.", Reply("Four.")),
        ("qwen3", "", "  Four, </think> <think>\n", Reply("  Four, </think> <think>\n")),
        ("qwen3", "", "<think>\nHm. </thin", Reply("", "Hm. </thin")),
        ("qwen3", "", "<thin", Reply("<thin")),
        ("qwen3", "", "", Reply("")),
        ("qwen3", "<|im_start|>assistant\n<think>\n", "Hm.\n</think>\n\nFour.", Reply("Four.", "Hm.")),
        ("qwen3", "<|im_start|>assistant\n<think>\n", "Hm.", Reply("", "Hm.")),
        ("qwen3", "<|im_start|>assistant\n<think>\n", "<think>Hm.</think>", Reply("", "Hm.")),
        ("qwen3", "<|im_start|>assistant\n<think>\n\n</think>\n\n", "Four.", Reply("Four.")),
        ("qwen3", "<|im_start|>user\nWhat is <think>?<|im_end|>\n<|im_start|>assistant\n", "It.", Reply("It.")),
        ("qwen3", "<｜User｜><think>?<｜Assistant｜>", "It.", Reply("It.")),
        ("deepseek_r1", "<｜Assistant｜>", "Hm.\n</think>\n\nFour.", Reply("Four.", "Hm.")),
        ("deepseek-r1", "<｜Assistant｜><think>\n", "<think>\nHm.\n</think>\nFour.", Reply("Four.", "Hm.")),
        ("deepseek_r1", "<｜Assistant｜><think>\n\n</think>\n\n", "Four.", Reply("Four.")),
        ("granite", "", "Here is my thought process:\nHm.\nHere is my response:\nFour.", Reply("Four.", "Hm.")),
        ("granite", "", "Here's my thought process: Hm.Here's my response: 4", Reply(" 4", " Hm.")),
        ("granite", "", "Here is my response: Four.", Reply("Here is my response: Four.")),
        ("mistral", "", "[THINK]Hm.[/THINK]Four.", Reply("Four.", "Hm.")),
        ("mistral", "[/INST][THINK]", "Hm.[/THINK]Four.", Reply("Four.", "Hm.")),
        ("seed_oss", "", "<seed:think>\nHm.</seed:think>Four.", Reply("Four.", "Hm.")),
        ("kimi", "", "◁think▷Hm.◁/think▷Four.", Reply("Four.", "Hm.")),
        ("olmo3", "<|im_start|>assistant\n<think>", "Hm.</think>Four.", Reply("Four.", "Hm.")),
        (
            "hunyuan_a13b",
            "",
            "<think>\nHm.\n</think>\n<answer>\nFour.\n</answer> So.",
            Reply("Four. So.", "Hm."),
        ),
        ("granite3_3", "", "<think>Hm.</think>\n<response>Four.</response>", Reply("Four.", "Hm.")),
        ("ernie45", "", "<think>Hm.</think>Four <response>.", Reply("Four <response>.", "Hm.")),
    ],
)
def test_replies(family: str, prompt: str, text: str, reply: Reply, read_reply: Any) -> None:
    assert read_reply(lambda: choose("none", family, None).parser((), prompt), text) == reply


@pytest.mark.parametrize(
    ("tools", "reasoning", "call"),
    [
        ("hermes", "qwen3", '<tool_call>\n{"name": "now"}\n</tool_call>'),
        ("hermes", "qwen3", '<tool_call>{"name": "now"}</tool_call>'),
        ("qwen3_coder", "qwen3", "<tool_call>\n<function=now>\n</function>\n</tool_call>"),
        ("glm47", "glm45", "<tool_call>now</tool_call>"),
        ("deepseek_v31", "deepseek_v3", f"{deepseek.SECTION}{deepseek.CALL}now{deepseek.SEPARATOR}{{}}"),
        ("kimi_k2", "kimi_k2", f"{kimi_k2.SECTION}{kimi_k2.CALL}now{kimi_k2.ARGUMENTS}{{}}"),
        ("mistral", "mistral", "[TOOL_CALLS]now[CALL_ID]123456789[ARGS]{}"),
    ],
)
@pytest.mark.parametrize("end", ["", "{end}", "\n\n", "\n{end}\n\n"])
def test_calls_come_behind_reasoning_whether_it_was_ended_or_not(
    tools: str, reasoning: str, call: str, end: str, read_reply: Any
) -> None:
    dialects = choose(tools, reasoning, None)
    marks = dialects.reasoning
    assert marks is not None
    text = f"{marks.begin}I call it.{end.format(end=marks.end)}{call}"
    reply = read_reply(lambda: dialects.parser(OFFERED, ""), text)
    assert (reply.content, reply.reasoning) == ("", "I call it.")
    assert [(call.name, call.arguments) for call in reply.calls] == [("now", "{}")]


@pytest.mark.parametrize(
    "said", ["<tool_call> tags", "<tool_call></tool_call>", "`<tool_call>`", "<tool_call>\n", "<tool_call>"]
)
def test_reasoning_may_speak_of_calls(said: str, read_reply: Any) -> None:
    dialects = choose("hermes", "qwen3", None)
    call = '<tool_call>{"name": "now"}</tool_call>'
    reply = read_reply(lambda: dialects.parser(OFFERED, ""), f"<think>Use {said}.</think>{call}")
    assert reply == Reply("", f"Use {said}.", (Call("now", "{}"),))
    cut_off = read_reply(lambda: dialects.parser(OFFERED, ""), f"<think>Use {said}")
    assert cut_off == Reply("", f"Use {said}".rstrip("\n"))


def test_without_tools_nothing_in_reasoning_is_a_call(read_reply: Any) -> None:
    thought = 'Say <tool_call>{"name": "now"}</tool_call>?'
    reply = read_reply(lambda: choose("hermes", "qwen3", None).parser((), ""), f"<think>{thought}</think>No.")
    assert reply == Reply("No.", thought)


def test_reasoning_is_told_as_it_comes() -> None:
    parser = choose("none", "qwen3", None).parser((), "")
    assert parser.push("<think") == []
    assert parser.push(">\nOne") == [Reasoning("One")]
    assert parser.push(" two.\n") == [Reasoning(" two.")]
    assert parser.push("\nThree</") == [Reasoning("\n\nThree")]
    assert parser.push("think>\n") == []
    assert parser.push("\nFour") == [Content("Four")]
    assert parser.finish() == []
