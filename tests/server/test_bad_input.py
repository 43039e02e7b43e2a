"""What a client can get wrong: a status in OpenAI's error shape, the path of the value, and an engine untouched."""

import json
import re

import msgspec
import pytest

pytestmark = pytest.mark.anyio

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "hi"}]
LEAK = re.compile(r"0x[0-9a-f]{6,}|/usr/|/tmp/|File \"|Traceback")


def check(answer, status, param, code=None):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param, error
    assert error["message"] and len(error["message"]) < 2000
    assert not LEAK.search(answer.text)
    if code is not None:
        assert error["code"] == code


EVERYWHERE = [
    *((name, value) for name in ("n", "max_tokens", "min_tokens", "top_k") for value in (1.5, "5", True, 2**63, -2)),
    ("n", 0),
    ("n", 129),
    ("max_tokens", -1),
    ("top_k", -2),
    *(
        (name, value)
        for name in ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
        for value in ("0.5", True, [], -3)
    ),
    ("temperature", 2.1),
    ("top_p", 0),
    ("top_p", 1.1),
    ("min_p", 1.1),
    ("presence_penalty", 2.1),
    *(("repetition_penalty", value) for value in (0, 5e-324, 1e-7, 1.1e6, 1e300)),
    ("seed", 2**63),
    ("seed", "1"),
    ("stop", 3),
    ("stop", ""),
    ("stop", [""]),
    ("stop", ["a", 1]),
    ("stop", ["a"] * 17),
    ("stop", "x" * 1025),
    ("stop_token_ids", [-1]),
    ("stop_token_ids", ["1"]),
    ("stop_token_ids", 1),
    ("stop_token_ids", list(range(129))),
    ("allowed_token_ids", []),
    ("bad_words", [""]),
    ("bad_words", ["x"] * 129),
    ("logit_bias", {"x": 1}),
    ("logit_bias", {"1": "x"}),
    ("logit_bias", {"1": 101}),
    ("logit_bias", {"1": 1, "01": 1}),
    ("logit_bias", {str(i): 1 for i in range(1025)}),
    ("logit_bias", [1]),
    ("prompt_logprobs", 21),
    ("prompt_logprobs", -2),
    ("truncate_prompt_tokens", 0),
    ("truncate_prompt_tokens", -2),
    ("truncation_side", "middle"),
    ("repetition_detection", {"max_pattern_size": 4}),
    ("repetition_detection", {"max_pattern_size": 4, "min_pattern_size": 5, "min_count": 2}),
    ("repetition_detection", {"max_pattern_size": 1025, "min_count": 2}),
    ("repetition_detection", 3),
    ("best_of", 0),
    ("best_of", 129),
    ("stream", "yes"),
    ("stream", 1),
    ("stream_options", True),
    ("stream_options", {"include_usage": "yes"}),
    ("model", 3),
    ("echo", "yes"),
    ("cache_salt", "x" * 1025),
    ("request_id", "a b"),
    ("request_id", ""),
    ("priority", "high"),
    ("skip_special_tokens", 1),
]


@pytest.mark.parametrize(("name", "value"), EVERYWHERE, ids=[f"{n}-{str(v)[:20]}" for n, v in EVERYWHERE])
@pytest.mark.parametrize(("path", "base"), [(CHAT, {"messages": HI}), (COMPLETIONS, {"prompt": "x"})])
async def test_values(client, llm, path, base, name, value):
    answer = await client.post(path, json={**base, name: value})
    param = answer.json()["error"]["param"]
    assert re.fullmatch(rf"\$\.{name}([.\[].*)?", param or ""), answer.text
    check(answer, 400, param, "invalid_value")
    assert not llm.requests


UNSUPPORTED = [
    (CHAT, "functions", [{"name": "f"}]),
    (CHAT, "function_call", {"name": "f"}),
    (CHAT, "functions", [{"name": "f"}]),
    (CHAT, "audio", {"voice": "x"}),
    (CHAT, "modalities", ["text", "audio"]),
    (CHAT, "web_search_options", {}),
    (CHAT, "chat_template", "{{ messages }}"),
    (CHAT, "thread", {"type": "create"}),
    (CHAT, "previous_response_id", "x"),
    (CHAT, "best_of", 2),
    (COMPLETIONS, "suffix", "end"),
    (COMPLETIONS, "prompt_embeds", "AAAA"),
]


@pytest.mark.parametrize(("path", "name", "value"), UNSUPPORTED, ids=[f"{p[4:8]}-{n}" for p, n, _ in UNSUPPORTED])
async def test_fields_that_cannot_be_honoured_are_named(client, llm, path, name, value):
    answer = await client.post(path, json={"messages": HI, "prompt": "x", name: value})
    check(answer, 400, f"$.{name}", "unsupported_value")
    assert not llm.requests


CHAT_ONLY = [
    ({}, "$.messages"),
    ({"messages": None}, "$.messages"),
    ({"messages": []}, "$.messages"),
    ({"messages": "hi"}, "$.messages"),
    ({"messages": {}}, "$.messages"),
    ({"messages": [1]}, "$.messages[0]"),
    ({"messages": [*HI, {"content": "x"}]}, "$.messages[1].role"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "$.messages[0].role"),
    ({"messages": [{"role": [], "content": "x"}]}, "$.messages[0].role"),
    ({"messages": [{"role": "user"}]}, "$.messages[0].content"),
    ({"messages": [{"role": "user", "content": 3}]}, "$.messages[0].content"),
    ({"messages": [{"role": "user", "content": [3]}]}, "$.messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "$.messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "$.messages[0].content[0].type"),
    ({"messages": [{"role": "assistant", "content": [{"type": "refusal"}]}]}, "$.messages[0].content[0].refusal"),
    ({"messages": [{"role": "assistant", "refusal": 3}]}, "$.messages[0].refusal"),
    ({"messages": [{"role": "user", "content": "x", "name": 3}]}, "$.messages[0].name"),
    ({"messages": [{"role": "assistant", "tool_calls": 3}]}, "$.messages[0].tool_calls"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": {}}]}, "$.messages[0].tool_calls"),
    ({"messages": [{"role": "user", "content": "x", "reasoning_content": {}}]}, "$.messages[0].reasoning_content"),
    ({"messages": HI, "logit_bias": {"1": None}}, "$.logit_bias.1"),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "$.messages[0].tool_calls[0].function"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
        "$.messages[0].tool_calls[0].function.arguments",
    ),
    ({"messages": [{"role": "user", "content": "refuse me"}]}, "$.messages"),
    ({"messages": [{"role": "user", "content": "x" * 99}]}, "$.messages"),
    ({"messages": HI, "top_logprobs": 2}, "$.top_logprobs"),
    ({"messages": HI, "logprobs": True, "top_logprobs": 21}, "$.top_logprobs"),
    ({"messages": HI, "logprobs": True, "top_logprobs": -1}, "$.top_logprobs"),
    ({"messages": HI, "logprobs": 5}, "$.logprobs"),
    ({"messages": HI, "max_completion_tokens": 0}, "$.max_completion_tokens"),
    ({"messages": HI, "max_tokens": 0}, "$.max_tokens"),
    ({"messages": HI, "min_tokens": 5, "max_tokens": 4}, "$.min_tokens"),
    ({"messages": HI, "stream": True, "prompt_logprobs": 1}, "$.prompt_logprobs"),
    ({"messages": HI, "add_generation_prompt": True, "continue_final_message": True}, "$.continue_final_message"),
    ({"messages": HI, "chat_template_kwargs": {"messages": []}}, "$.chat_template_kwargs.messages"),
    ({"messages": HI, "chat_template_kwargs": 1}, "$.chat_template_kwargs"),
    ({"messages": HI, "documents": "x"}, "$.documents"),
]


@pytest.mark.parametrize(("body", "param"), CHAT_ONLY, ids=[f"{i}-{p}" for i, (_, p) in enumerate(CHAT_ONLY)])
async def test_conversations(client, llm, body, param):
    check(await client.post(CHAT, json=body), 400, param)
    assert not llm.requests


COMPLETIONS_ONLY = [
    ({}, "$.prompt"),
    ({"prompt": None}, "$.prompt"),
    ({"prompt": 3}, "$.prompt"),
    ({"prompt": {}}, "$.prompt"),
    ({"prompt": []}, "$.prompt"),
    ({"prompt": [[]]}, "$.prompt[0]"),
    ({"prompt": "", "add_special_tokens": False}, "$.prompt"),
    ({"prompt": ["a", 1]}, "$.prompt[1]"),
    ({"prompt": ["a", None]}, "$.prompt[1]"),
    ({"prompt": [1, "a"]}, "$.prompt[1]"),
    ({"prompt": [1, 2.0]}, "$.prompt[1]"),
    ({"prompt": [1, True]}, "$.prompt[1]"),
    ({"prompt": [True]}, "$.prompt[0]"),
    ({"prompt": [-1]}, "$.prompt[0]"),
    ({"prompt": [2**40]}, "$.prompt[0]"),
    ({"prompt": [[1], "a"]}, "$.prompt[1]"),
    ({"prompt": [[1], [2, "a"]]}, "$.prompt[1][1]"),
    ({"prompt": [260]}, "$.prompt"),
    ({"prompt": "x" * 99}, "$.prompt"),
    ({"prompt": "x", "max_tokens": 0}, "$.max_tokens"),
    ({"prompt": "x", "logprobs": 21}, "$.logprobs"),
    ({"prompt": "x", "logprobs": True}, "$.logprobs"),
    ({"prompt": "x", "logprobs": -2}, "$.logprobs"),
]


@pytest.mark.parametrize(
    ("body", "param"), COMPLETIONS_ONLY, ids=[f"{i}-{p}" for i, (_, p) in enumerate(COMPLETIONS_ONLY)]
)
@pytest.mark.parametrize("stream", [False, True])
async def test_prompts(client, llm, body, param, stream):
    check(await client.post(COMPLETIONS, json={**body, "stream": stream}), 400, param)
    assert not llm.streams


MALFORMED = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"x"',
    b"{'a': 1}",
    b'{"prompt": "x", "temperature": NaN}',
    b'{"prompt": "x", "temperature": Infinity}',
    b'{"prompt": "x", "temperature": 1e999}',
    b'{"prompt": "\\ud800"}',
    b'{"prompt": "\xff"}',
    b"[" * 100_000,
    b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b"\x80\x04\x95.",
]


@pytest.mark.parametrize("content", MALFORMED, ids=range(len(MALFORMED)))
async def test_bodies_that_are_not_json_objects(client, llm, content):
    answer = await client.post(COMPLETIONS, content=content, headers={"content-type": "application/json"})
    check(answer, 400, "$", "invalid_value")
    assert not llm.requests


def nested(depth):
    return '{"a":' * depth + "1" + "}" * depth


async def test_nesting_is_bounded_and_not_by_who_reads_it(client, llm):
    call = '{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": ?}}]}]}'
    for depth in range(260, 1100, 2):
        value = nested(depth)
        for body in (nested(depth), call.replace("?", value), call.replace("?", json.dumps(value))):
            answer = await client.post(CHAT, content=body, headers={"content-type": "application/json"})
            assert answer.status_code == 400, (depth, body[:30])
    assert not llm.requests
    answer = await client.post(CHAT, json={"messages": HI, "max_tokens": 1, "metadata": json.loads(nested(200))})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", None])
async def test_content_types(client, kind):
    answer = await client.post(COMPLETIONS, content=b"{}", headers={} if kind is None else {"content-type": kind})
    check(answer, 415, None, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
async def test_json_content_types(client, kind):
    answer = await client.post(COMPLETIONS, content=b'{"prompt": "x"}', headers={"content-type": kind})
    assert answer.status_code == 200


async def test_bodies_are_read_as_they_are(client):
    headers = {"content-type": "application/json", "content-encoding": "zstd"}
    answer = await client.post(COMPLETIONS, content=b"\x28\xb5\x2f\xfd", headers=headers)
    check(answer, 415, None, "unsupported_media_type")
    assert "'zstd'" in answer.json()["error"]["message"]
    headers["content-encoding"] = "Identity"
    assert (await client.post(COMPLETIONS, content=b'{"prompt": "x"}', headers=headers)).status_code == 200


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/tokenize", "/detokenize"])
async def test_unknown_models(client, path):
    body = {"messages": HI, "prompt": "x", "tokens": [1], "model": "gpt-9"}
    check(await client.post(path, json=body), 404, "$.model", "model_not_found")


async def test_unknown_model_cards(client):
    check(await client.get("/v1/models/gpt-9"), 404, "$.model", "model_not_found")


async def test_routes_and_methods(client):
    check(await client.get("/nothing"), 404, None, "not_found")
    check(await client.post("/v1/chat/completions/"), 404, None, "not_found")
    answer = await client.get(CHAT)
    check(answer, 405, None, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    assert (await client.put("/v1/responses/resp_0")).headers["allow"] == "DELETE, GET, HEAD"
    assert (await client.put("/v1/responses/input_tokens")).headers["allow"] == "POST"
    assert "content-type" in answer.headers


async def test_too_long_a_prompt_has_a_code_of_its_own(client):
    answer = await client.post(COMPLETIONS, json={"prompt": "x" * 99})
    check(answer, 400, "$.prompt", "context_length_exceeded")


TOKENIZE = [
    ("/tokenize", {}, "$.prompt"),
    ("/tokenize", {"prompt": "x", "messages": HI}, "$.messages"),
    ("/tokenize", {"prompt": "x", "tools": "no"}, "$.tools"),
    ("/tokenize", {"content": "x", "chat_template_kwargs": {"a": 1}}, "$.chat_template_kwargs"),
    ("/tokenize", {"messages": HI, "with_pieces": True}, "$.with_pieces"),
    ("/tokenize", {"prompt": 3}, "$.prompt"),
    ("/tokenize", {"messages": [{}]}, "$.messages[0].role"),
    ("/tokenize", {"messages": HI, "chat_template": "x"}, "$.chat_template"),
    ("/detokenize", {}, "$.tokens"),
    ("/detokenize", {"tokens": [260]}, "$.tokens[0]"),
    ("/detokenize", {"tokens": [1, -1]}, "$.tokens[1]"),
    ("/detokenize", {"tokens": [1, "x"]}, "$.tokens[1]"),
]


@pytest.mark.parametrize(("path", "body", "param"), TOKENIZE)
async def test_tokenize(client, path, body, param):
    check(await client.post(path, json=body), 400, param)


async def test_several_faults_are_all_told(client):
    answer = await client.post(COMPLETIONS, json={"prompt": "x", "n": "1", "temperature": "2"})
    assert "$.n is '1'" in answer.text and "$.temperature is '2'" in answer.text


async def test_values_are_shown_shortened(client):
    answer = await client.post(COMPLETIONS, json={"prompt": "x", "n": "9" * 10_000})
    assert len(answer.text) < 400


async def test_long_unknown_fields_cost_nothing(client):
    body = msgspec.json.encode({"prompt": "x", "y" * 100_000: 1})
    answer = await client.post(COMPLETIONS, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200
