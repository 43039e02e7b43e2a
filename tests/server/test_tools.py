"""Tools and reasoning in conversations: what the model is told, and what its replies become."""

import json

import pytest
from llguidance import LLMatcher

from quire.core.step import FinishReason
from quire.text.grammar.vocabulary import build_vocabulary

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "What it is like outside",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME = {"type": "function", "function": {"name": "time"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'


def allowed(*names, mode="auto"):
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.fixture
def client(bring_up):
    return bring_up(reasoning_parser="qwen3")


async def stream(client, **body):
    answer = await client.post(PATH, json={"messages": HI, "stream": True, **body})
    assert answer.status_code == 200, answer.text
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


async def test_a_call_is_told_as_openai_tells_it(client, llm):
    llm.says = "Let me look." + CALL
    answer = (await client.post(PATH, json={"messages": HI, "tools": [WEATHER]})).json()
    (choice,) = answer["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert call.pop("id").startswith("call_")
    assert call == {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Let me look.", "tool_calls")


async def test_a_reply_that_is_only_a_call_has_no_content(client, llm):
    llm.says = CALL
    answer = (await client.post(PATH, json={"messages": HI, "tools": [WEATHER]})).json()
    assert answer["choices"][0]["message"]["content"] is None


async def test_streamed_calls_name_themselves_once(client, llm):
    llm.says = CALL + CALL.replace("Köln", "Bonn")
    chunks = await stream(client, tools=[WEATHER])
    deltas = [call for c in chunks for call in c["choices"][0]["delta"].get("tool_calls", [])]
    begun = [delta for delta in deltas if "id" in delta]
    assert [(d["index"], d["type"], d["function"]["name"]) for d in begun] == [
        (0, "function", "weather"),
        (1, "function", "weather"),
    ]
    assert all(set(d) == {"index", "function"} and set(d["function"]) == {"arguments"} for d in deltas if "id" not in d)
    told = ["".join(d["function"]["arguments"] for d in deltas if d["index"] == i) for i in (0, 1)]
    assert [json.loads(arguments) for arguments in told] == [{"city": "Köln"}, {"city": "Bonn"}]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert len(deltas) > 6, "arguments come while they are written"


async def test_one_call_at_a_time_if_asked_for(client, llm):
    llm.says = CALL + CALL
    body = {"messages": HI, "tools": [WEATHER], "parallel_tool_calls": False}
    answer = (await client.post(PATH, json=body)).json()
    assert len(answer["choices"][0]["message"]["tool_calls"]) == 1


async def test_without_tools_nothing_is_read_out_of_the_text(client, llm):
    llm.says = CALL
    for extra in ({}, {"tools": []}, {"tools": [WEATHER], "tool_choice": "none"}):
        answer = (await client.post(PATH, json={"messages": HI, **extra})).json()
        assert answer["choices"][0]["message"]["content"] == CALL
        assert answer["choices"][0]["finish_reason"] == "stop"


async def test_reasoning_stands_apart(client, llm):
    llm.says = "<think>\nhmm\n</think>\n\nyes"
    answer = (await client.post(PATH, json={"messages": HI})).json()
    message = answer["choices"][0]["message"]
    assert (message["content"], message["reasoning"], message["reasoning_content"]) == ("yes", "hmm", "hmm")
    assert 0 < answer["usage"]["completion_tokens_details"]["reasoning_tokens"] < len(llm.says)
    for unread in ({"separate_reasoning": False}, {"reasoning_format": "none"}):
        message = (await client.post(PATH, json={"messages": HI, **unread})).json()["choices"][0]["message"]
        assert message["content"] == llm.says
        assert "reasoning" not in message
    chunks = await stream(client, include_reasoning=False)
    assert not any("reasoning" in c["choices"][0]["delta"] for c in chunks)
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks) == "yes"


async def test_the_template_is_told_of_tools(client, llm):
    await client.post(PATH, json={"messages": HI, "tools": [WEATHER], "max_tokens": 1})
    assert b"[weather]" in bytes(llm.requests[-1].prompt.astype("u1"))


async def test_the_template_is_told_of_allowed_tools_only(client, llm):
    body = {"messages": HI, "tools": [WEATHER, TIME, STRICT_OTHER], "max_tokens": 1}
    for names, shown in ((["time"], "[time]"), (["time", "weather"], "[weather][time]")):
        assert (await client.post(PATH, json={**body, "tool_choice": allowed(*names)})).status_code == 200
        assert shown.encode() in bytes(llm.requests[-1].prompt.astype("u1"))
        assert llm.requests[-1].grammar is None, "the strict tool is not among them"


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"tools": {}}, "$.tools"),
        ({"tools": [1]}, "$.tools[0]"),
        ({"tools": [{"type": "web_search"}]}, "$.tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "$.tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": 1}}]},
            "$.tools[0].function.parameters",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": ["array", "null"]}}}]},
            "$.tools[0].function.parameters.type",
        ),
        ({"tools": [WEATHER, WEATHER]}, "$.tools[1].function.name"),
        ({"tools": [WEATHER], "tool_choice": "some"}, "$.tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "$.tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function"}}, "$.tool_choice.function"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {}}}, "$.tool_choice.function.name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "custom", "custom": {"name": "f"}}}, "$.tool_choice.type"),
        ({"tool_choice": "required"}, "$.tools"),
        ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "auto"}}, "$.tool_choice.allowed_tools"),
        ({"tools": [WEATHER], "tool_choice": allowed("weather", mode="none")}, "$.tool_choice.allowed_tools.mode"),
        ({"tools": [WEATHER], "tool_choice": allowed()}, "$.tool_choice.allowed_tools.tools"),
        (
            {"tools": [WEATHER], "tool_choice": allowed("weather", "other")},
            "$.tool_choice.allowed_tools.tools[1].function.name",
        ),
        (
            {"tools": [], "tool_choice": allowed("weather", mode="required")},
            "$.tool_choice.allowed_tools.tools[0].function.name",
        ),
        ({"tool_choice": allowed("weather")}, "$.tool_choice"),
        (
            {"messages": [{"role": "assistant", "content": "", "reasoning_content": 5}]},
            "$.messages[0].reasoning_content",
        ),
    ],
)
async def test_what_is_wrong_is_named(client, extra, param):
    answer = await client.post(PATH, json={"messages": HI, **extra})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


STRICT = {**WEATHER, "function": {**WEATHER["function"], "strict": True}}
STRICT_OTHER = {"type": "function", "function": {"name": "other", "strict": True}}
NAMED = {"type": "function", "function": {"name": "weather"}}


@pytest.fixture
def accepts(llm):
    """Whether the grammar of the last request takes a reply as a whole."""

    def accepts(text):
        words = build_vocabulary(llm.tokenizer, [259])
        matcher = LLMatcher(words, llm.requests[-1].grammar, log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        ids = list(text.encode())
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    return accepts


async def test_a_call_that_is_required_is_all_there_can_be(client, llm, accepts):
    for choice in ("required", NAMED):
        body = {"messages": HI, "tools": [WEATHER], "tool_choice": choice, "max_tokens": 1}
        assert (await client.post(PATH, json=body)).status_code == 200
        assert accepts(CALL) and accepts("<think>hmm</think>\n\n" + CALL)
        assert not accepts("Let me look.") and not accepts(CALL.replace("weather", "other"))
        assert accepts(CALL + "\n" + CALL) == (choice == "required")


async def test_a_call_that_is_required_is_of_an_allowed_tool(client, llm, accepts):
    body = {"messages": HI, "tools": [WEATHER, TIME]}
    other = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
    llm.says = CALL
    for names, takes_other in ((["weather"], False), (["weather", "time"], True)):
        choice = allowed(*names, mode="required")
        answer = (await client.post(PATH, json={**body, "tool_choice": choice})).json()["choices"][0]
        assert [call["function"]["name"] for call in answer["message"]["tool_calls"]] == ["weather"]
        assert answer["finish_reason"] == "tool_calls", "which to call, and how often, is the model's decision"
        assert (await stream(client, **body, tool_choice=choice))[-1]["choices"][0]["finish_reason"] == "tool_calls"
        assert accepts(CALL + "\n" + CALL) and not accepts("Let me look.")
        assert accepts(other) == takes_other


async def test_a_forced_call_is_no_decision_of_the_models(client, llm):
    llm.says = CALL
    answer = await client.post(PATH, json={"messages": HI, "tools": [WEATHER], "tool_choice": NAMED})
    assert answer.json()["choices"][0]["finish_reason"] == "stop"


async def test_a_strict_tool_is_called_well_or_not_at_all(client, llm, accepts):
    await client.post(PATH, json={"messages": HI, "tools": [STRICT], "max_tokens": 1})
    assert accepts("Let me look.") and accepts("Let me look. " + CALL)
    assert not accepts(CALL.replace("city", "town"))


async def test_a_required_call_that_is_cut_short_is_no_content(client, llm, accepts):
    llm.says, llm.ends = '<tool_call>\n{"na', FinishReason.LENGTH
    body = {"messages": HI, "tools": [WEATHER], "tool_choice": "required"}
    choice = (await client.post(PATH, json=body)).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "length")
    assert "tool_calls" not in choice["message"]
    assert not any(chunk["choices"][0]["delta"].get("content") for chunk in await stream(client, **body))


@pytest.mark.parametrize(("says", "reason"), [(CALL[:-17], "stop"), (CALL, "tool_calls"), (CALL + "So", "tool_calls")])
async def test_a_stop_string_within_arguments_cuts_the_call_off(client, llm, says, reason):
    llm.says, llm.stop_reason = says, "END"
    choice = (await client.post(PATH, json={"messages": HI, "tools": [WEATHER]})).json()["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["arguments"] == ('{"city": "Köl' if reason == "stop" else '{"city": "Köln"}')
    assert (choice["finish_reason"], choice["stop_reason"]) == (reason, "END")
    assert (await stream(client, tools=[WEATHER]))[-1]["choices"][0]["finish_reason"] == reason


async def test_without_need_there_is_no_grammar(client, llm):
    await client.post(PATH, json={"messages": HI, "tools": [WEATHER], "max_tokens": 1})
    assert llm.requests[-1].grammar is None
