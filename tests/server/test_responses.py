"""OpenAI's Responses API: what goes in, what comes out, and how a stream tells it."""

import json

import pytest

from quire.core.errors import EngineDead, GenerationFailed
from quire.core.step import FinishReason
from quire.server.schema.response_input import INPUT_SCHEMA

pytestmark = pytest.mark.anyio

PATH = "/v1/responses"
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": None,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
THOUGHT = "<think>\nhm\n</think>\n\n"


@pytest.fixture
def client(bring_up):
    return bring_up(reasoning_parser="qwen3")


@pytest.fixture
def prompt(llm):
    """The text of the last prompt that reached the engine."""
    return lambda: bytes(llm.requests[-1].prompt.tolist()).decode()


async def ask(client, status=200, **body):
    answer = await client.post(PATH, json={"input": "hi", **body})
    assert answer.status_code == status, answer.text
    return answer.json() if status == 200 else answer.json()["error"]


def events_of(text):
    frames = text.split("\n\n")
    assert frames.pop() == ""
    events = []
    for frame in frames:
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


async def stream(client, **body):
    answer = await client.post(PATH, json={"input": "hi", "stream": True, **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = events_of(answer.text)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def kinds(events):
    """The events' types, runs of one as one."""
    found = [event["type"].removeprefix("response.") for event in events]
    return [kind for i, kind in enumerate(found) if i == 0 or found[i - 1] != kind]


def without_ids(items):
    return [{name: value for name, value in item.items() if name not in ("id", "call_id")} for item in items]


async def test_an_answer(client, llm):
    llm.num_cached_tokens = 2
    answer = await ask(client, max_output_tokens=3, temperature=0, metadata={"a": "b"}, user="me")
    message = {"text": "abc", "annotations": [], "logprobs": [], "type": "output_text"}
    assert answer["id"].startswith("resp_") and answer["output"][0]["id"].startswith("msg_")
    assert without_ids(answer["output"]) == [
        {"type": "message", "status": "incomplete", "role": "assistant", "content": [message]}
    ]
    assert (answer["object"], answer["model"], answer["status"]) == ("response", "fake", "incomplete")
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert answer["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 10,
    }
    assert answer["error"] is None and answer["completed_at"] is None
    assert (answer["temperature"], answer["top_p"], answer["max_output_tokens"]) == (0, 1, 3)
    assert (answer["metadata"], answer["user"], answer["store"], answer["background"]) == (
        {"a": "b"},
        "me",
        True,
        False,
    )
    assert (answer["tools"], answer["tool_choice"], answer["parallel_tool_calls"]) == ([], "auto", True)
    assert (answer["text"], answer["truncation"]) == ({"format": {"type": "text"}}, "disabled")
    assert answer["reasoning"] == {"effort": None, "summary": None}


async def test_a_reply_becomes_items(client, llm):
    llm.says = THOUGHT + "Let me look." + CALL + CALL.replace("Köln", "Bonn")
    answer = await ask(client, tools=[WEATHER], include=["reasoning.encrypted_content"])
    assert answer["status"] == "completed" and answer["completed_at"] >= answer["created_at"]
    reasoning, message, first, second = answer["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "hm"}] and reasoning["summary"] == []
    assert message["content"][0]["text"] == "Let me look."
    assert {item["status"] for item in answer["output"]} == {"completed"}
    assert [json.loads(call["arguments"]) for call in (first, second)] == [{"city": "Köln"}, {"city": "Bonn"}]
    assert first["call_id"].startswith("call_") and first["call_id"] != second["call_id"]
    assert len({item["id"] for item in answer["output"]}) == 4
    assert answer["tools"] == [{**WEATHER, "strict": None}]
    assert answer["usage"]["output_tokens_details"]["reasoning_tokens"] > 0


async def test_an_empty_reply_is_an_empty_message(client, llm):
    llm.says = ""
    (item,) = (await ask(client))["output"]
    assert item["content"][0]["text"] == ""
    assert kinds(await stream(client))[2:-1] == [
        "output_item.added",
        "content_part.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
    ]


async def test_a_stream_tells_items_one_after_another(client, llm):
    llm.says = THOUGHT + "Look." + CALL
    events = await stream(client, tools=[WEATHER])
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    indices = [event["output_index"] for event in events if "output_index" in event]
    assert indices == sorted(indices) and set(indices) == {0, 1, 2}
    begun = {event["output_index"]: event["item"] for event in events if event["type"].endswith("item.added")}
    done = {event["output_index"]: event["item"] for event in events if event["type"].endswith("item.done")}
    assert [done[i]["id"] for i in done] == [begun[i]["id"] for i in begun]
    assert {item["status"] for item in begun.values()} == {"in_progress"}
    assert [done[i] for i in sorted(done)] == events[-1]["response"]["output"]
    said = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert said == "Look."
    arguments = "".join(event["delta"] for event in events if event["type"].endswith("arguments.delta"))
    assert arguments == done[2]["arguments"]


@pytest.mark.parametrize("says", [THOUGHT + "Look." + CALL, CALL + CALL, "just text", "", THOUGHT, "a " + CALL + " b"])
async def test_a_stream_says_what_the_whole_answer_says(client, llm, says):
    llm.says = says
    body = {"tools": [WEATHER], "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    whole = await ask(client, **body)
    last = (await stream(client, **body))[-1]["response"]
    assert without_ids(last["output"]) == without_ids(whole["output"])
    assert last["usage"] == whole["usage"]
    no_logprobs = await ask(client, tools=[WEATHER])
    texts = [[part["text"] for part in item["content"]] for item in whole["output"] if item["type"] == "message"]
    assert texts == [
        [part["text"] for part in item["content"]] for item in no_logprobs["output"] if item["type"] == "message"
    ]


async def test_reasoning_stands_in_the_summary_where_one_is_wanted(client, llm):
    llm.says = THOUGHT + "Yes."
    answer = await ask(client, reasoning={"summary": "auto", "effort": "low"})
    assert answer["output"][0]["summary"] == [{"type": "summary_text", "text": "hm"}]
    assert answer["output"][0]["content"] == []
    assert answer["reasoning"] == {"effort": "low", "summary": "auto"}
    events = await stream(client, reasoning={"generate_summary": "concise"})
    assert kinds(events)[2:8] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]


async def test_reasoning_may_be_left_out(client, llm):
    llm.says = THOUGHT + "Yes."
    assert [item["type"] for item in (await ask(client, include_reasoning=False))["output"]] == ["message"]


async def test_log_probabilities_are_those_of_the_text(client, llm):
    llm.says = THOUGHT + "Look." + CALL
    body = {"tools": [WEATHER], "include": ["message.output_text.logprobs"], "top_logprobs": 1}
    (message,) = [item for item in (await ask(client, **body))["output"] if item["type"] == "message"]
    logprobs = message["content"][0]["logprobs"]
    assert "".join(entry["token"] for entry in logprobs) == "Look."
    assert logprobs[0]["top_logprobs"][0]["token"] == "M"
    events = await stream(client, **body)
    told = [entry for event in events if event["type"].endswith("text.delta") for entry in event.get("logprobs", [])]
    assert told == logprobs


async def test_a_reply_that_is_cut_off_says_where(client, llm):
    llm.says = THOUGHT + CALL[:-30]
    llm.ends = FinishReason.LENGTH
    answer = await ask(client, tools=[WEATHER])
    assert [item["status"] for item in answer["output"]] == ["completed", "incomplete"]
    assert answer["status"] == "incomplete"
    assert (await stream(client))[-1]["type"] == "response.incomplete"


@pytest.mark.parametrize(
    "error", [EngineDead("The engine ended."), GenerationFailed("Not finite."), ValueError("secret")]
)
async def test_what_breaks_a_stream_is_its_last_event(client, llm, error):
    llm.breaks = error
    events = await stream(client)
    assert kinds(events) == ["created", "in_progress", "failed"]
    response = events[-1]["response"]
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert "secret" not in json.dumps(events)
    assert not llm.streams


async def test_what_breaks_a_whole_answer_is_an_error(client, llm):
    llm.breaks = EngineDead("The engine ended.")
    assert (await ask(client, status=503))["code"] == "engine_dead"


async def test_settings_reach_the_engine(client, sampled, llm):
    await ask(
        client, max_output_tokens=4, top_k=3, min_p=0.1, seed=7, stop=["x"], presence_penalty=1, ignore_eos=True,
        logit_bias={"1": 2}, priority=3, cache_salt="s", top_p=0.5,
    )  # fmt: skip
    params = sampled()
    assert (params.max_tokens, params.top_k, params.min_p, params.seed, params.stop) == (4, 3, 0.1, 7, ("x",))
    assert (params.presence_penalty, params.ignore_eos, params.top_p, params.temperature) == (1, True, 0.5, 0.5)
    assert (llm.requests[-1].priority, llm.requests[-1].cache_salt) == (3, "s")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("hi", "u:hi|"),
        ([{"role": "user", "content": "hi"}], "u:hi|"),
        ([{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}], "u:hi|"),
        ([{"role": "developer", "content": "a"}, {"role": "user", "content": "b"}], "s:a|u:b|"),
        ([{"role": "user", "content": [{"type": "input_text", "text": t} for t in "ab"]}], "u:a\nb|"),
        (
            [
                {"role": "user", "content": "hi"},
                {
                    "type": "message",
                    "id": "msg_1",
                    "status": "completed",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "yo", "annotations": [], "logprobs": None}],
                },
                {"role": "user", "content": "so"},
            ],
            "u:hi|a:yo|u:so|",
        ),
        ([{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}], "a:no|"),
    ],
)
async def test_input_in_many_forms(client, prompt, given, expected):
    await ask(client, input=given)
    assert prompt() == expected + "a:"


async def test_instructions_come_first(client, prompt):
    await ask(client, instructions="be kind")
    assert prompt() == "s:be kind|u:hi|a:"
    await ask(
        client, instructions="be", input=[{"role": "system", "content": "kind"}, {"role": "user", "content": "x"}]
    )
    assert prompt() == "s:be\n\nkind|u:x|a:"


async def test_calls_and_their_results_are_one_conversation(client, llm, monkeypatch):
    rendered = []
    render = llm.chat_template.render
    monkeypatch.setattr(
        llm.chat_template, "render", lambda messages, **kwargs: rendered.append(messages) or render(messages, **kwargs)
    )
    call = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Köln"}'}
    await ask(
        client,
        input=[
            {"role": "user", "content": "hi"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"role": "assistant", "content": "look"},
            call,
            {**call, "call_id": "c2", "arguments": "{}", "id": "fc_2", "status": "completed"},
            {"type": "function_call_output", "call_id": "c1", "output": "wet"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "dry"}]},
        ],
    )
    assert rendered[-1] == [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": "look",
            "reasoning": "hm",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Köln"}}},
                {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": {}}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "wet"},
        {"role": "tool", "tool_call_id": "c2", "content": "dry"},
    ]


async def test_encrypted_reasoning_comes_back_as_it_was(client, llm, monkeypatch):
    llm.says = THOUGHT + "Yes."
    item = (await ask(client, include=["reasoning.encrypted_content"]))["output"][0]
    rendered = []
    render = llm.chat_template.render
    monkeypatch.setattr(
        llm.chat_template, "render", lambda messages, **kwargs: rendered.append(messages) or render(messages, **kwargs)
    )
    replayed = {"type": "reasoning", "id": item["id"], "summary": [], "encrypted_content": item["encrypted_content"]}
    await ask(client, input=[replayed, {"role": "user", "content": "so"}])
    assert rendered[-1][0]["reasoning_content"] == "hm"
    error = await ask(client, status=400, input=[{**replayed, "encrypted_content": "gAAAA"}])
    assert error["param"] == "$.input[0].encrypted_content"


async def test_a_stop_string_within_arguments_leaves_an_incomplete_call(client, llm):
    llm.stop_reason = "END"
    for said, status in ((CALL[:-17], "incomplete"), (CALL, "completed")):
        llm.says = said
        answer = await ask(client, tools=[WEATHER])
        assert (answer["status"], answer["output"][-1]["status"]) == ("completed", status)


async def test_no_setting_of_another_api_is_named(client):
    assert "max_tokens" not in (await ask(client, status=400, min_tokens=5, max_output_tokens=4))["message"]


async def test_only_allowed_tools_are_offered(client, llm, prompt):
    other = {**WEATHER, "name": "other"}
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "other"}]}
    llm.says = CALL
    answer = await ask(client, tools=[WEATHER, other], tool_choice=choice)
    assert prompt() == "u:hi|[other]a:"
    assert answer["tool_choice"] == choice and len(answer["tools"]) == 2
    await ask(client, tools=[WEATHER], tool_choice="none")
    assert prompt() == "u:hi|a:"


async def test_one_call_at_a_time(client, llm):
    llm.says = CALL + CALL
    assert len((await ask(client, tools=[WEATHER], parallel_tool_calls=False))["output"]) == 1


async def test_what_asks_for_nothing_is_accepted(client):
    nothing = dict.fromkeys(("instructions", "tools", "tool_choice", "text", "reasoning", "metadata", "store", "stop"))
    await ask(client, **nothing, include=[], stream_options={"include_obfuscation": False}, service_tier="flex")
    await ask(client, tools=[], text={"format": {"type": "text"}, "verbosity": "low"}, prompt_cache_key="k")
    await ask(client, tools=[{**WEATHER, "strict": False}], conversation=None, prompt=None, truncation="disabled")


WRONG = [
    ({"input": None}, "$.input"),
    ({"input": []}, "$.input"),
    ({"input": 3}, "$.input"),
    ({"input": [3]}, "$.input[0]"),
    ({"input": [{"role": "tool", "content": "x"}]}, "$.input[0].role"),
    ({"input": [{"role": "user"}]}, "$.input[0].content"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "$.input[0].content[0].text"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}]}, "$.input[0].arguments"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": {}}]}, "$.input[0].arguments"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "$.input[0].call_id"),
    ({"input": [{"type": "function_call", "name": "f", "call_id": "c"}]}, "$.input[0].arguments"),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "$.input[0].call_id"),
    ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "$.input[0].output"),
    ({"input": [{"type": "reasoning", "summary": "x"}]}, "$.input[0].summary"),
    ({"input": [{"type": "item_reference", "id": "msg_0"}]}, "$.input[0].id"),
    ({"input": [{"id": "msg_0"}]}, "$.input[0].id"),
    ({"input": "x" * 99}, "$.input"),
    ({"input": "refuse me"}, "$.input"),
    ({"max_output_tokens": 0}, "$.max_output_tokens"),
    ({"min_tokens": 5, "max_output_tokens": 4}, "$.min_tokens"),
    ({"temperature": 3}, "$.temperature"),
    ({"top_logprobs": 21}, "$.top_logprobs"),
    ({"include": ["everything"]}, "$.include[0]"),
    ({"metadata": {"a": 1}}, "$.metadata.a"),
    ({"metadata": {str(i): "x" for i in range(17)}}, "$.metadata"),
    ({"reasoning": {"summary": "long"}}, "$.reasoning.summary"),
    ({"reasoning": {"context": "all_turns"}}, "$.reasoning.context"),
    ({"text": {"format": "json"}}, "$.text.format"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "$.text.format.schema"),
    ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "$.text.format.name"),
    ({"text": {"verbosity": "loud"}}, "$.text.verbosity"),
    ({"structured_outputs": {"regex": "("}}, "$.structured_outputs.regex"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "$.structured_outputs"),
    ({"structured_outputs": {"regex": "a"}, "text": {"format": {"type": "json_object"}}}, "$.structured_outputs"),
    ({"structured_outputs": "a"}, "$.structured_outputs"),
    ({"truncation": "middle"}, "$.truncation"),
    ({"background": True, "store": False}, "$.background"),
    ({"previous_response_id": "resp_0"}, "$.previous_response_id"),
    ({"tools": [{"type": "function"}]}, "$.tools[0].name"),
    ({"tools": [WEATHER, WEATHER]}, "$.tools[1].name"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "$.tools[0].name"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "other"}}, "$.tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function"}}, "$.tool_choice.name"),
    ({"tools": [WEATHER], "tool_choice": "always"}, "$.tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "none"}}, "$.tool_choice.mode"),
    ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "auto"}}, "$.tool_choice.tools"),
    ({"tools": [], "tool_choice": "required"}, "$.tools"),
    (
        {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}},
        "$.tool_choice.tools[0].name",
    ),
]


def test_a_calls_arguments_are_published_as_they_are_taken():
    (call,) = [item for item in INPUT_SCHEMA["anyOf"][1]["items"]["anyOf"] if "arguments" in item["properties"]]
    assert "arguments" in call["required"] and call["properties"]["arguments"]["type"] == "string"


@pytest.mark.parametrize(("body", "param"), WRONG, ids=[f"{i}-{p}" for i, (_, p) in enumerate(WRONG)])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_what_is_wrong_is_named(client, llm, body, param, is_stream):
    error = await ask(client, status=400, **body, stream=is_stream)
    assert error["param"] == param and error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}
    assert not llm.requests


UNSUPPORTED = [
    ({"conversation": "conv_1"}, "$.conversation"),
    ({"prompt": {"id": "pmpt_1"}}, "$.prompt"),
    ({"messages": [{"role": "user", "content": "hi"}]}, "$.messages"),
    ({"max_tokens": 3}, "$.max_tokens"),
    ({"n": 2}, "$.n"),
    ({"prompt_cache_options": {"prewarm": True}}, "$.prompt_cache_options"),
    ({"tools": [{"type": "web_search"}]}, "$.tools[0].type"),
    ({"tools": [{"type": "custom", "name": "x"}]}, "$.tools[0].type"),
    ({"tools": [{**WEATHER, "defer_loading": True}]}, "$.tools[0].defer_loading"),
    ({"tool_choice": {"type": "mcp", "server_label": "x"}}, "$.tool_choice.type"),
    ({"text": {"format": {"type": "grammar"}}}, "$.text.format.type"),
    ({"structured_outputs": {"pattern": "a"}}, "$.structured_outputs.pattern"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "$.input[0].content[0].type",
    ),
    ({"input": [{"type": "computer_call_output"}]}, "$.input[0].type"),
]


@pytest.mark.parametrize(("body", "param"), UNSUPPORTED, ids=[p for _, p in UNSUPPORTED])
async def test_what_cannot_be_done_is_refused_by_name(client, llm, body, param):
    error = await ask(client, status=400, **body)
    assert (error["param"], error["code"]) == (param, "unsupported_value")
    assert not llm.requests


async def test_the_oldest_turns_may_be_left_out(client, llm, prompt):
    """The fake's context holds 64 tokens."""
    turns = [{"role": role, "content": name * 9} for name in "abcde" for role in ("user", "assistant")]
    body = {"input": [*turns, {"role": "user", "content": "so"}], "instructions": "be"}
    assert (await ask(client, status=400, **body))["code"] == "context_length_exceeded"
    await ask(client, **body, truncation="auto", max_output_tokens=2)
    assert prompt() == "s:be|u:" + "ddddddddd|a:ddddddddd|u:eeeeeeeee|a:eeeeeeeee|u:so|a:"
    await ask(client, truncation="auto", input=[{"role": "user", "content": "x" * 9}])
    assert prompt() == "u:xxxxxxxxx|a:"
    error = await ask(client, status=400, truncation="auto", input=[*turns, {"role": "user", "content": "x" * 70}])
    assert error["param"] == "$.input"


async def test_a_format_reaches_the_engine(client, sampled):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"type": "json_schema", "name": "x", "schema": schema, "strict": True, "description": None}
    answer = await ask(client, text={"format": form})
    assert sampled().structured_outputs.json == schema and not sampled().structured_outputs.is_lenient
    assert answer["text"]["format"]["schema"] == schema
    await ask(client, text={"format": {**form, "strict": None}})
    assert sampled().structured_outputs.is_lenient
    await ask(client, text={"format": {"type": "json_object"}})
    assert sampled().structured_outputs.json_object
    error = await ask(client, status=400, text={"format": {**form, "schema": {"type": "nonsense"}}})
    assert error["param"].startswith("$.text.format.schema"), error


async def test_shapes_that_no_format_can_say_reach_the_engine(client, sampled):
    answer = await ask(client, structured_outputs={"choice": ["yes", "no"]}, text={"format": {"type": "text"}})
    assert sampled().structured_outputs.choice == ("yes", "no")
    assert answer["text"]["format"] == {"type": "text"}
    await ask(client, structured_outputs={})
    assert sampled().structured_outputs is None


async def test_a_call_that_must_be_made_comes_before_a_format(client, llm, sampled):
    """As instructor's clients ask for it."""
    form = {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}
    llm.says = CALL
    for choice in ({"type": "function", "name": "weather"}, "required"):
        answer = await ask(client, tools=[WEATHER], tool_choice=choice, text={"format": form})
        assert [item["type"] for item in answer["output"]] == ["function_call"]
        assert sampled().structured_outputs is None and "weather" in llm.requests[-1].grammar


async def test_unknown_models(client):
    assert (await ask(client, status=404, model="gpt-9"))["code"] == "model_not_found"


async def test_input_is_counted(client):
    answer = await client.post(PATH + "/input_tokens", json={"input": "hi", "tools": [WEATHER], "instructions": "be"})
    assert answer.json() == {"object": "response.input_tokens", "input_tokens": len("s:be|u:hi|[weather]a:")}


async def test_what_is_not_there_says_so(client):
    assert (await client.post(PATH + "/compact", json={})).status_code in (404, 405)
    assert (await client.post("/v1/conversations", json={})).status_code == 404
    answer = await client.get(PATH, headers={"connection": "upgrade", "upgrade": "websocket"})
    assert answer.status_code == 405 and answer.json()["error"]["code"] == "method_not_allowed"


async def test_a_client_that_hangs_up_ends_its_response(client, llm):
    """Seen by the generator: what the connection does is tested in test_live."""
    llm.close_gate()
    app = client._transport.app
    sent = []

    async def receive():
        if not llm.submitted.is_set():
            return {"type": "http.request", "body": json.dumps({"input": "hi", "stream": True}).encode()}
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": PATH,
        "raw_path": PATH.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    }
    await app(scope, receive, send)
    assert llm.aborted and not llm.streams
    assert len(app.state.service.responses) == 0
