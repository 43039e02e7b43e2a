"""Harmony: channels become reasoning, content and calls."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.text.dialects.dialect import Tool
from quire.text.dialects.events import Call, CallArguments, Reasoning, Reply
from quire.text.dialects.harmony import HarmonyCalls, HarmonyReasoning
from quire.text.dialects.plain import PlainParser
from quire.text.dialects.registry import choose

OFFERED = (Tool(name="get_weather", parameters={"properties": {"city": {"type": "string"}}}), Tool(name="now"))
PROMPT = "<|start|>user<|message|>Hello<|end|><|start|>assistant"
RAW = '{"city": "<|end|> é\\n", "n": [{}]}'


def read(read_reply: Any, text: str, prompt: str = PROMPT, tools: tuple[Tool, ...] = OFFERED) -> Reply:
    return read_reply(lambda: choose("harmony", "harmony", None).parser(tools, prompt), text)


def analysis(text: str) -> str:
    return f"<|channel|>analysis<|message|>{text}<|end|><|start|>assistant"


def final(text: str) -> str:
    return f"<|channel|>final<|message|>{text}"


@pytest.mark.parametrize("end", ["", "<|return|>", "<|end|>"])
def test_reasoning_then_an_answer(end: str, read_reply: Any) -> None:
    text = analysis("Let me\n\nthink. ") + final(" 2 + 2 = 4.\n") + end
    assert read(read_reply, text) == Reply(" 2 + 2 = 4.\n", "Let me\n\nthink. ")


@pytest.mark.parametrize("end", ["", "<|call|>", "<|end|>", "\n<|call|>"])
@pytest.mark.parametrize(
    "header",
    [
        "<|channel|>commentary to=functions.get_weather <|constrain|>json",
        "<|channel|>commentary to=functions.get_weather<|constrain|>json",
        "<|channel|>commentary to=functions.get_weather json",
        "<|channel|>commentary to=functions.get_weather",
        "<|channel|>analysis to=functions.get_weather code",
        "<|channel|>commentary to=get_weather <|constrain|>json",
        " to=functions.get_weather<|channel|>commentary <|constrain|>json",
        " to=functions.get_weather<|channel|>commentary json",
        "<|start|>assistant to=functions.get_weather<|channel|>commentary json",
    ],
)
def test_a_call(header: str, end: str, read_reply: Any) -> None:
    call = Call("get_weather", RAW)
    assert read(read_reply, f"{header}<|message|>{RAW}{end}") == Reply("", None, (call,))
    header = header if header.startswith("<|start|>") else f"<|start|>assistant{header}"
    before = analysis("Call it.").removesuffix("<|start|>assistant")
    assert read(read_reply, f"{before}{header}<|message|>{RAW}{end}") == Reply("", "Call it.", (call,))


def test_a_preamble_and_two_calls(read_reply: Any) -> None:
    call = "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}<|call|><|start|>assistant"
    text = analysis("One.") + "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant" + call + call
    text += analysis("Two.") + final("Done.<|return|>")
    assert read(read_reply, text) == Reply("I look.\nDone.", "One.\nTwo.", (Call("now", "{}"), Call("now", "{}")))


def test_a_call_of_a_function_that_is_not_offered(read_reply: Any) -> None:
    text = "<|channel|>commentary to=functions.other<|message|>{}"
    assert read(read_reply, text).calls == (Call("other", "{}"),)


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        # Built-in tools that nobody offered.
        ('<|channel|>analysis to=browser.search code<|message|>{"q": 1}<|call|>', Reply("", '{"q": 1}')),
        ("<|channel|>analysis to=python code<|message|>print(1)<|call|>", Reply("", "print(1)")),
        ("<|channel|>commentary to=assistant<|message|>{}", Reply("{}")),
        # Arguments that are no object.
        ("<|channel|>commentary to=functions.now<|message|>now!<|call|>", Reply("now!")),
        ("<|channel|>analysis to=functions.now<|message|>[1]<|call|>", Reply("", "[1]")),
        ("<|channel|>commentary to=functions.now<|message|>", Reply("")),
        ("<|channel|>commentary to=functions.now<|message|> <|call|>", Reply("", None, (Call("now", "{}"),))),
        ("<|channel|>commentary to=functions.now<|message|>{} so<|call|>", Reply("so", None, (Call("now", "{}"),))),
        ('<|channel|>commentary to=functions.now<|message|>{"a": 1', Reply("", None, (Call("now", '{"a": 1'),))),
        # Channels that are missing or unheard of.
        ("<|message|>Hello", Reply("<|message|>Hello")),
        ("<|channel|><|message|>Hello", Reply("Hello")),
        ("<|channel|>aside<|message|>Hello", Reply("Hello")),
        # Ends that are missing.
        ("<|channel|>analysis<|message|>Hm.<|start|>assistant<|channel|>final<|message|>Yes.", Reply("Yes.", "Hm.")),
        ("<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>Yes.", Reply("Yes.", "Hm.")),
        # Headers without a message.
        ("<|channel|>final<|return|>", Reply("")),
        ("<|channel|>fin", Reply("")),
        ("<|start|>assistant", Reply("")),
        ("<|channel|>final I forgot.<|return|>", Reply("<|channel|>final I forgot.<|return|>")),
        # No header at all, and text between messages.
        ("Just text.", Reply("Just text.")),
        (" Just text.<|end|>", Reply(" Just text.")),
        (
            "<|channel|>final<|message|>Yes.<|end|> and <|start|>assistant<|channel|>final<|message|>no",
            Reply("Yes.and \nno"),
        ),
        (" to me", Reply(" to me")),
    ],
)
def test_all_else_is_what_its_channel_says(text: str, reply: Reply, read_reply: Any) -> None:
    assert read(read_reply, text) == reply


def test_a_header_has_an_end(read_reply: Any) -> None:
    text = f"<|channel|>final {'x' * 1000}"
    assert read(read_reply, text) == Reply(text)


def test_without_tools_calls_are_content(read_reply: Any) -> None:
    text = "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}<|call|>"
    assert read(read_reply, text, tools=()) == Reply("{}")


@pytest.mark.parametrize(
    ("prompt", "is_open"),
    [
        (PROMPT, False),
        ("", False),
        ("plain text", False),
        (f"{PROMPT}<|channel|>analysis<|message|>", True),
        (f"{PROMPT}<|channel|>analysis<|message|>Let me", True),
        (f"{PROMPT}<|channel|>analysis", False),
        (f"{PROMPT}<|channel|>analysis to=python<|message|>1", False),
        (f"{PROMPT}<|channel|>final<|message|>So", False),
        (f"{PROMPT}<|channel|>analysis<|message|>Let me<|end|>", False),
        (f"{PROMPT}{analysis('x')}", False),
    ],
)
def test_prompts_may_open_reasoning(prompt: str, is_open: bool) -> None:
    assert HarmonyReasoning().is_open(prompt) == is_open


def test_replies_may_begin_in_a_message(read_reply: Any) -> None:
    opened = f"{PROMPT}<|channel|>analysis<|message|>Let me"
    assert read(read_reply, " think.<|end|><|start|>assistant" + final("Yes."), opened) == Reply("Yes.", " think.")
    assert read(read_reply, " it is.<|return|>", f"{PROMPT}{final('So')}") == Reply(" it is.")


def test_reasoning_goes_out_as_it_comes() -> None:
    parser = choose("harmony", "harmony", None).parser(OFFERED, PROMPT)
    parser.push("<|channel|>analysis<|message|>")
    assert parser.push("Hm") == [Reasoning("Hm")]
    parser.push("<|end|><|start|>assistant<|channel|>commentary to=functions.now<|message|>")
    parser.push('{"')
    assert parser.push("a") == [CallArguments(0, "a")]


WORDS = st.text(alphabet="ab \n{}<|é", max_size=12).filter(lambda text: "<|" not in text)


@given(st.lists(st.tuples(st.sampled_from(["analysis", "commentary", "final"]), WORDS), max_size=5))
def test_every_message_is_told_whole(messages: list[tuple[str, str]]) -> None:
    parser = HarmonyReasoning().parser(False, PlainParser())
    text = "<|end|><|start|>assistant".join(f"<|channel|>{channel}<|message|>{said}" for channel, said in messages)
    reply = Reply.of([*parser.push(text), *parser.finish()])
    thought = [said for channel, said in messages if channel == "analysis" and said]
    shown = [said for channel, said in messages if channel != "analysis" and said]
    assert (reply.reasoning or "", reply.content) == ("\n".join(thought), "\n".join(shown))


@pytest.mark.parametrize("is_special", [False, True])
def test_the_grammar(is_special: bool, grammar_accepts: Any, read_reply: Any) -> None:
    dialect = HarmonyCalls()
    special = dialect.markers if is_special else ()
    text = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "x"}'
    assert grammar_accepts(dialect, OFFERED, special, text)
    assert grammar_accepts(dialect, OFFERED, special, f"<|start|>assistant{text}")
    assert not grammar_accepts(dialect, OFFERED, special, text.replace("get_weather", "other"))
    assert not grammar_accepts(dialect, OFFERED, special, text.replace('"x"', "5"))
    assert not grammar_accepts(dialect, OFFERED, special, final("Hello"))
    assert read(read_reply, text).calls == (Call("get_weather", '{"city": "x"}'),)
