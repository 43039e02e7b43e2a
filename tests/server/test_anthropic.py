"""Anthropic's Messages API: conversations, answers, streams, errors in its own shape."""

import asyncio
import json

import pytest

from quire.core.errors import EngineDead, GenerationFailed, InvalidRequest, Overloaded
from quire.core.step import FinishReason
from quire.server.answers.arguments import arguments_of
from quire.server.schema.anthropic_conversation import conversation_of, system_of

pytestmark = pytest.mark.anyio

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
HI = [{"role": "user", "content": "hi"}]
BODY = {"model": "fake", "max_tokens": 1000, "messages": HI}
WEATHER = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
USED = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}


@pytest.fixture
def client(bring_up):
    return bring_up(reasoning_parser="qwen3")


def text(said, **extra):
    return {"type": "text", "text": said, **extra}


def turn(role, *blocks):
    return {"role": role, "content": list(blocks)}


async def post(client, path=PATH, **body):
    return await client.post(path, json={**BODY, **body})


async def events(client, **body):
    answer = await post(client, stream=True, **body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answer.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def put_together(found):
    """The message that a stream's events tell."""
    message, inputs = None, {}
    for event in found:
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
            case "content_block_delta":
                block, delta = message["content"][event["index"]], event["delta"]
                kind, (field, piece) = delta["type"], next((k, v) for k, v in delta.items() if k != "type")
                if kind == "input_json_delta":
                    inputs[event["index"]] = inputs.get(event["index"], "") + piece
                else:
                    assert kind == f"{field}_delta"
                    block[field] += piece
            case "message_delta":
                message |= event["delta"]
                message["usage"] |= event["usage"]
    for index, arguments in inputs.items():
        message["content"][index]["input"] = json.loads(arguments)
    return message


def nameless(message):
    """Without the ids that are drawn."""
    for block in message["content"]:
        block.pop("id", None)
    return {**message, "id": None}


async def test_a_message_is_answered(client, llm):
    llm.says = "hello"
    answer = await post(client)
    assert answer.status_code == 200
    message = answer.json()
    assert message.pop("id") == f"msg_{answer.headers['request-id']}"
    usage = message.pop("usage")
    assert message == {
        "type": "message",
        "role": "assistant",
        "model": "fake",
        "content": [{"type": "text", "text": "hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }
    assert (usage["input_tokens"], usage["output_tokens"], usage["service_tier"]) == (7, 5, "standard")


async def test_cached_tokens_are_counted_apart_from_the_first_event_on(client, llm):
    llm.says, llm.num_cached_tokens = "hello", 3
    start, *_ = found = await events(client)
    usage = start["message"]["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]) == (4, 3, 0)
    assert found[-2]["usage"]["output_tokens"] == 5
    assert (await post(client)).json()["usage"] == found[-2]["usage"] | {"service_tier": "standard"}


@pytest.mark.parametrize(
    ("says", "kinds"),
    [
        ("hello", ["text"]),
        ("", []),
        ("<think>hm</think>", ["thinking"]),
        ("<think>hm</think>yes", ["thinking", "text"]),
        ("Let me look." + CALL, ["text", "tool_use"]),
        ("<think>hm</think>" + CALL + CALL, ["thinking", "tool_use", "tool_use"]),
        (CALL + "So it is.", ["tool_use", "text"]),
    ],
)
async def test_a_stream_put_together_is_the_whole_message(client, llm, says, kinds):
    llm.says = says
    whole = (await post(client, tools=[WEATHER])).json()
    found = await events(client, tools=[WEATHER])
    assert [block["type"] for block in whole["content"]] == kinds
    assert nameless(put_together(found)) == nameless(whole)
    order = [event["type"] for event in found]
    assert order[:2] == ["message_start", "ping"] and order[-2:] == ["message_delta", "message_stop"]
    assert order.count("content_block_start") == order.count("content_block_stop") == len(kinds)


async def test_calls_and_thinking_are_blocks(client, llm):
    llm.says = "<think>hm</think>Let me look." + CALL
    message = (await post(client, tools=[WEATHER])).json()
    thinking, said, used = message["content"]
    assert thinking == {"type": "thinking", "thinking": "hm", "signature": ""}
    assert said == {"type": "text", "text": "Let me look."}
    assert used.pop("id").startswith("toolu_")
    assert used == {"type": "tool_use", "name": "weather", "input": {"city": "Köln"}}
    assert message["stop_reason"] == "tool_use"
    assert message["usage"]["output_tokens_details"]["thinking_tokens"] > 0


async def test_input_comes_while_it_is_written(client, llm):
    llm.says = CALL
    deltas = [
        e["delta"]["partial_json"] for e in await events(client, tools=[WEATHER]) if "delta" in e and "index" in e
    ]
    assert len(deltas) > 5 and json.loads("".join(deltas)) == {"city": "Köln"}


async def test_thinking_may_be_left_out_of_the_answer(client, llm):
    llm.says = "<think>hm</think>yes"
    hidden = {"thinking": {"type": "adaptive", "display": "omitted"}}
    whole = (await post(client, **hidden)).json()
    assert whole["content"][0] == {"type": "thinking", "thinking": "", "signature": ""}
    assert nameless(put_together(await events(client, **hidden))) == nameless(whole)
    for display in ("summarized", "updates"):
        shown = (await post(client, thinking={"type": "adaptive", "display": display})).json()
        assert shown["content"][0]["thinking"] == "hm"


async def test_a_stop_sequence_cuts_a_call_off_as_a_limit_does(client, llm):
    llm.says = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": "th'
    for reason, stopped, told in ((FinishReason.LENGTH, None, None), (FinishReason.STOP, "ree", "stop_sequence")):
        llm.ends, llm.stop_reason = reason, stopped
        message = (await post(client, tools=[WEATHER])).json()
        assert message["content"][0]["input"] == {"city": "Rome"}
        assert message["stop_reason"] == (told or "model_context_window_exceeded")


async def test_stop_reasons(client, llm):
    assert (await post(client, max_tokens=3)).json()["stop_reason"] == "max_tokens"
    message = (await post(client, max_tokens=10**9)).json()
    assert message["stop_reason"] == "model_context_window_exceeded"
    assert message["usage"]["output_tokens"] == 64 - 7
    llm.says, llm.stop_reason = "a", "END"
    message = (await post(client, stop_sequences=["END"])).json()
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")
    assert put_together(await events(client))["stop_sequence"] == "END"


async def test_nothing_may_be_asked_for(client, llm):
    message = (await post(client, max_tokens=0)).json()
    assert (message["content"], message["stop_reason"]) == ([], "max_tokens")
    assert (message["usage"]["input_tokens"], message["usage"]["output_tokens"]) == (7, 0)
    assert nameless(put_together(await events(client, max_tokens=0))) == nameless(message)


async def test_a_call_that_was_asked_for_is_a_call(client, llm):
    llm.says = CALL + CALL
    for choice in ({"type": "any"}, {"type": "tool", "name": "weather"}):
        choice["disable_parallel_tool_use"] = True
        message = (await post(client, tools=[WEATHER], tool_choice=choice)).json()
        assert (message["stop_reason"], len(message["content"])) == ("tool_use", 1)
    llm.says = CALL
    message = (await post(client, tools=[WEATHER], tool_choice={"type": "none"})).json()
    assert (message["content"][0]["type"], message["stop_reason"]) == ("text", "end_turn")


async def test_settings_reach_the_engine(client, llm, sampled):
    thinking = {"type": "enabled", "budget_tokens": 100}
    await post(
        client, temperature=1, top_p=0.5, top_k=7, seed=3, stop_sequences=["a"], thinking=thinking, max_tokens=200
    )
    params = sampled()
    assert (params.temperature, params.top_p, params.top_k, params.seed) == (1, 0.5, 7, 3)
    assert (params.stop, params.max_tokens, params.thinking_token_budget) == (("a",), 64, 100)
    await post(client, cache_salt="mine")
    assert sampled().temperature == 0.5, "the model's own default"
    assert llm.requests[-1].cache_salt == "mine"


async def test_a_shape_reaches_the_engine(client, llm, sampled):
    shape = {"type": "json_schema", "schema": {"type": "object"}}
    for body in ({"output_config": {"format": shape, "effort": "max"}}, {"output_format": shape}):
        assert (await post(client, **body)).status_code == 200
        assert sampled().structured_outputs.json == {"type": "object"}
        assert sampled().structured_outputs.shape == "json"
        assert llm.requests[-1].grammar


def prompt(llm):
    return bytes(llm.requests[-1].prompt.astype("u1"))


async def test_what_thinking_and_effort_tell_the_template(client, llm):
    llm.chat_template.variables |= {"enable_thinking"}
    for thinking, told in (("disabled", b"enable_thinking=False"), ("adaptive", b"enable_thinking=True")):
        await post(client, thinking={"type": thinking})
        assert prompt(llm).endswith(told)
    await post(client, output_config={"effort": "xhigh"})
    assert prompt(llm).endswith(b"reasoning_effort=high")


async def test_an_answer_may_be_begun(client, llm):
    await post(client, messages=[*HI, turn("assistant", text("An"))])
    assert prompt(llm) == b"u:hi|a:An|"
    await post(client, messages=[*HI, turn("assistant")])
    assert prompt(llm) == b"u:hi|a:"


@pytest.mark.parametrize("path", [PATH, COUNT])
async def test_breakpoints_of_the_cache_change_no_prompt(client, path):
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    plain = {"system": "be", "messages": [*HI, turn("assistant", text("a")), turn("user", text("b"))]}
    marked = {
        "system": [text("be", **mark)],
        "messages": [
            turn("user", text("hi", **mark)),
            {"role": "assistant", "content": "a"},
            turn("user", text("b", **mark)),
        ],
        "cache_control": mark["cache_control"],
    }
    told = []
    for body in (plain, marked):
        answer = await post(client, path, **body, tools=[WEATHER | (mark if body is marked else {})])
        assert answer.status_code == 200, answer.text
        told.append((answer.json() if path == COUNT else answer.json()["usage"])["input_tokens"])
    assert told[0] == told[1]
    if path == PATH:
        first, second = client._transport.app.state.service.llm.requests
        assert first.prompt.tolist() == second.prompt.tolist()


def test_marks_on_calls_and_results_change_no_message():
    mark = {"cache_control": {"type": "ephemeral"}}
    marked = [
        turn("user", text("?", **mark)),
        turn("assistant", USED | mark),
        turn("user", {**RESULT, **mark, "content": [text("rain", **mark)]}),
    ]
    assert conversation_of(marked, None) == conversation_of([*HI[:0], turn("user", text("?")), *rainy()], None)


def rainy(*after, result=RESULT):
    return [turn("assistant", USED), turn("user", result, *after)]


def test_a_conversation_is_made_ready_for_a_template():
    messages = [
        turn("user", text("what"), text("now")),
        {"role": "user", "content": "?"},
        turn("assistant", {"type": "thinking", "thinking": "hm", "signature": "x"}, text("I "), text("look"), USED),
        turn("user", {**RESULT, "is_error": True}, text("so?")),
        {"role": "system", "content": "short"},
        turn("assistant", {"type": "redacted_thinking", "data": "x"}, text("wet")),
        *HI,
    ]
    made, is_continued = conversation_of(messages, [text("be"), text("good")])
    function = {"name": "weather", "arguments": {"city": "Köln"}}
    assert made == [
        {"role": "system", "content": "be\ngood"},
        {"role": "user", "content": "what\nnow\n?"},
        {
            "role": "assistant",
            "content": "I look",
            "reasoning": "hm",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "toolu_1", "type": "function", "function": function}],
        },
        {"role": "tool", "name": "weather", "tool_call_id": "toolu_1", "content": "Error: rain"},
        {"role": "user", "content": "so?"},
        {"role": "system", "content": "short"},
        {"role": "assistant", "content": "wet"},
        {"role": "user", "content": "hi"},
    ]
    assert not is_continued


def test_a_line_of_bookkeeping_is_no_instruction():
    line = "x-anthropic-billing-header: cc_version=2; cch=0a1b2;"
    assert system_of([text(line), text("be")]) == "be"
    assert system_of([text(f"{line}\nbe")]) == f"{line}\nbe", "only where it is all of the block"


@pytest.mark.parametrize(
    ("messages", "path"),
    [
        (None, "$.messages"),
        ([], "$.messages"),
        ([1], "$.messages[0]"),
        ([{"role": "tool", "content": "x"}], "$.messages[0].role"),
        ([{"role": "user"}], "$.messages[0].content"),
        ([{"role": "user", "content": ""}], "$.messages[0].content"),
        ([turn("user")], "$.messages[0].content"),
        ([turn("assistant")], "$.messages"),
        ([turn("user", {})], "$.messages[0].content[0].type"),
        ([turn("user", {"type": "text"})], "$.messages[0].content[0].text"),
        ([turn("user", {"type": "image", "source": {}})], "$.messages[0].content[0].type"),
        ([turn("user", {"type": "document", "source": {}})], "$.messages[0].content[0].type"),
        ([turn("user", USED)], "$.messages[0].content[0].type"),
        ([turn("system", RESULT)], "$.messages[0].content[0].type"),
        ([turn("user", RESULT)], "$.messages[0].content[0].tool_use_id"),
        ([turn("assistant", USED)], "$.messages[0]"),
        ([turn("assistant", USED, USED), turn("user", RESULT)], "$.messages[0].content[1].id"),
        ([turn("assistant", {**USED, "input": 1}), turn("user", RESULT)], "$.messages[0].content[0].input"),
        ([turn("assistant", USED), *HI], "$.messages[1]"),
        ([turn("assistant", USED), turn("user", RESULT, RESULT)], "$.messages[1].content[1].tool_use_id"),
        ([turn("assistant", USED), turn("user", text("x"), RESULT)], "$.messages[1].content[1]"),
        (rainy(result={**RESULT, "content": [{"type": "image"}]}), "$.messages[1].content[0].content[0].type"),
        (rainy(result={**RESULT, "is_error": 1}), "$.messages[1].content[0].is_error"),
        ([*HI, {"role": "assistant", "content": "x "}], "$.messages[1].content"),
    ],
)
def test_a_conversation_that_cannot_be_is_refused_by_name(messages, path):
    with pytest.raises(InvalidRequest) as caught:
        conversation_of(messages, None)
    assert caught.value.param == path


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"model": None}, "$.model is missing"),
        ({"max_tokens": None}, "$.max_tokens is missing"),
        ({"max_tokens": -1}, "$.max_tokens is -1"),
        ({"temperature": 1.5}, "$.temperature is 1.5"),
        ({"top_k": -1}, "$.top_k is -1"),
        ({"stop_sequences": [""]}, "$.stop_sequences[0]"),
        ({"system": 1}, "$.system is 1"),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            "$.tools[0].type is 'web_search_20250305'",
        ),
        ({"tools": [{"name": "x"}]}, "$.tools[0].input_schema"),
        ({"tools": [{"name": "x", "input_schema": {"type": "string"}}]}, "$.tools[0].input_schema.type is 'string'"),
        ({"tools": [WEATHER | {"name": "a b"}]}, "$.tools[0].name"),
        ({"tools": [WEATHER, WEATHER]}, "$.tools[1].name"),
        ({"tools": [WEATHER | {"allowed_callers": ["code_execution_20250825"]}]}, "$.tools[0].allowed_callers"),
        ({"tool_choice": {"type": "any"}}, "there are no tools"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "other"}}, "'other'"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "$.tool_choice.name is missing"),
        (
            {"tool_choice": {"type": "some"}},
            "$.tool_choice.type is 'some': it must be one of 'auto', 'any', 'tool', 'none'.",
        ),
        ({"tool_choice": {"name": "weather"}}, "$.tool_choice.type is missing"),
        ({"thinking": {"type": "adaptive", "display": "full"}}, "$.thinking.display is 'full'"),
        ({"thinking": {"type": "enabled"}}, "$.thinking.budget_tokens is missing"),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "$.thinking.budget_tokens is 0"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1000}}, "less than max_tokens"),
        ({"output_config": {"format": {"type": "text"}}}, "$.output_config.format.type"),
        ({"output_config": {"effort": "some"}}, "$.output_config.effort"),
        ({"container": "c"}, "container is not accepted"),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "context_management is not accepted"),
        ({"mcp_servers": [{}]}, "mcp_servers is not accepted"),
        ({"n": 2}, "n is not accepted"),
        ({"guided_json": {"a": 1}}, "guided_json is not accepted"),
        ({"messages": [{"role": "user", "content": "refuse me"}]}, "The template refuses."),
    ],
)
async def test_what_is_wrong_is_named(client, body, said):
    answer = await post(client, **body)
    assert answer.status_code == 400, answer.text
    told = answer.json()
    assert set(told) == {"type", "error"} and set(told["error"]) == {"type", "message"}
    assert (told["type"], told["error"]["type"]) == ("error", "invalid_request_error")
    assert said in told["error"]["message"]


async def test_a_shape_cannot_go_on_from_an_answer_begun(client):
    shape = {"format": {"type": "json_schema", "schema": {}}}
    answer = await post(client, messages=[*HI, turn("assistant", text("{"))], output_config=shape)
    assert answer.status_code == 400 and "$.output_config.format" in answer.json()["error"]["message"]


async def test_a_thread_is_refused_so_that_clients_send_everything(client):
    for path in (PATH, COUNT):
        answer = await post(client, path, thread={"type": "create"}, messages=[turn("user", RESULT)])
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert error["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    assert (await post(client, thread=None)).status_code == 200


async def test_hints_change_nothing(client, llm):
    llm.says = "hello"
    hints = {
        "metadata": {"user_id": "me"},
        "service_tier": "auto",
        "tools": [],
        "tool_choice": {"type": "auto"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "mcp_servers": [],
        "speed": "fast",
        "inference_geo": "eu",
        "stop_sequences": None,
    }
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "whatever-2030-01-01,other"}
    answer = await client.post(PATH, json=BODY | hints, headers=headers)
    assert answer.status_code == 200, answer.text
    assert nameless(answer.json()) == nameless((await post(client)).json())


async def test_tokens_are_counted_as_they_are_used(client, llm):
    llm.says = "hello"
    body = {"system": "be", "tools": [WEATHER]}
    counted = await post(client, COUNT, **body)
    assert counted.json() == {"input_tokens": (await post(client, **body)).json()["usage"]["input_tokens"]}
    assert (await client.post(COUNT, json={"model": "fake", "messages": HI})).json() == {"input_tokens": 7}


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (Overloaded("busy", retry_after_s=3), 529, "overloaded_error"),
        (EngineDead("gone"), 503, "api_error"),
        (GenerationFailed("nan"), 500, "api_error"),
        (RuntimeError("ours"), 500, "api_error"),
    ],
)
async def test_failures_have_the_familys_shape(client, llm, error, status, kind):
    llm.breaks = error
    answer = await post(client)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    found = await events(client)
    assert [event["type"] for event in found] == ["error"] and found[0]["error"]["type"] == kind


async def test_an_answer_that_was_broken_off_says_so(client, llm):
    llm.close_gate()
    service = client._transport.app.state.service
    for stream in (False, True):
        llm.submitted.clear()
        asked = asyncio.ensure_future(post(client, stream=stream))
        await llm.submitted.wait()
        service.abort_all()
        assert '"overloaded_error"' in (await asked).text


async def test_what_never_reaches_a_route_has_the_familys_shape(bring_up):
    async with bring_up(api_key=["right"], max_body_bytes=2000) as client:
        key = {"x-api-key": "right"}
        cases = [
            (await client.post(PATH, json=BODY), 401, "authentication_error"),
            (await client.get(PATH, headers=key), 405, "invalid_request_error"),
            (await client.post(f"{PATH}/batches", json={}, headers=key), 404, "not_found_error"),
            (await client.post(PATH, content="{}", headers=key), 415, "invalid_request_error"),
            (await client.post(PATH, json={"a": "x" * 3000}, headers=key), 413, "request_too_large"),
            (await client.post(PATH, json=BODY, headers=key | {"host": "evil"}), 403, "permission_error"),
            (await client.post(PATH, json=BODY | {"model": "other"}, headers=key), 404, "not_found_error"),
            (await client.post(PATH, json=BODY, headers=key | {"x": "y" * 70_000}), 431, "request_too_large"),
        ]
    for answer, status, kind in cases:
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
        assert answer.json()["type"] == "error" and answer.headers["request-id"]


async def test_a_prompt_that_is_too_long_says_so_in_words_that_clients_look_for(client):
    answer = await post(client, messages=[{"role": "user", "content": "x" * 100}])
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("prompt is too long: ")


@pytest.mark.parametrize("path", ["/v1/messages/batches", "/v1/files", "/v1/skills/other", "/v1/complete"])
async def test_what_is_not_here_is_told_in_anthropics_words(client, path):
    answer = await client.get(path, headers={"anthropic-version": "2023-06-01"})
    assert (answer.status_code, answer.json()["type"]) == (404, "error")
    assert answer.json()["error"]["type"] == "not_found_error"


async def test_models_as_anthropics_clients_read_them(client):
    headers = {"anthropic-version": "2023-06-01"}
    page = (await client.get("/v1/models", headers=headers)).json()
    assert {key: page[key] for key in ("has_more", "first_id", "last_id")} == {
        "has_more": False,
        "first_id": "fake",
        "last_id": "also-fake",
    }
    model = (await client.get("/v1/models/fake", headers=headers)).json()
    assert page["data"][0] == model
    assert (model["type"], model["id"], model["display_name"], model["max_tokens"]) == ("model", "fake", "fake", 64)
    assert model["created_at"].endswith("Z")
    answer = await client.get("/v1/models/other", headers=headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
    assert "object" in (await client.get("/v1/models")).json()


@pytest.mark.parametrize(
    ("query", "ids", "has_more"),
    [
        ("limit=1", ["fake"], True),
        ("after_id=fake", ["also-fake"], False),
        ("limit=1&after_id=fake", ["also-fake"], False),
        ("after_id=also-fake", [], False),
        ("limit=1&before_id=also-fake", ["fake"], False),
        ("before_id=fake", [], False),
    ],
)
async def test_pages_of_models(client, query, ids, has_more):
    page = (await client.get(f"/v1/models?{query}", headers={"anthropic-version": "x"})).json()
    assert ([model["id"] for model in page["data"]], page["has_more"]) == (ids, has_more)


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=9999999999999", "after_id=other"])
async def test_pages_that_cannot_be(client, query):
    answer = await client.get(f"/v1/models?{query}", headers={"anthropic-version": "x"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("written", "is_cut", "found"),
    [
        ('{"a": 1}', False, {"a": 1}),
        ('{"a": 1, "b": "x', True, {"a": 1}),
        ("", True, {}),
        ('{"a": 1, "b": "x', False, {"INVALID_JSON": '{"a": 1, "b": "x'}),
        ("[1]", False, {"INVALID_JSON": "[1]"}),
        ('{"a": NaN}', False, {"INVALID_JSON": '{"a": NaN}'}),
    ],
)
def test_arguments_as_an_object(written, is_cut, found):
    assert arguments_of(written, is_cut=is_cut) == found
