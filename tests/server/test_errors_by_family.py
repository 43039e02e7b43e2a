"""One table over all families: what a client gets wrong is a 4xx in its family's shape, with path, value and limit."""

import re

import pytest

pytestmark = pytest.mark.anyio

MAX_MODEL_LEN = 64
"""The fake engine's."""
HI = [{"role": "user", "content": "hi"}]
LONG = "x" * (MAX_MODEL_LEN + 100)
LONG_TALK = [{"role": "user", "content": LONG}]
WEIRD = {"type": "object", "properties": {"a": {"type": "weird"}}}


def openai(body):
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]["param"], body["error"]["message"]


def llamacpp(body):
    assert set(body) == {"error"}
    assert {"code", "message", "type", "param"} <= set(body["error"])
    return body["error"]["param"], body["error"]["message"]


def anthropic(body):
    assert set(body) == {"type", "error"}
    assert body["type"] == "error"
    assert {"type", "message"} <= set(body["error"])
    return None, body["error"]["message"]


def ollama(body):
    assert set(body) == {"error"}
    return None, body["error"]


FAMILIES = {
    "chat": ("/v1/chat/completions", {"messages": HI}, openai),
    "completions": ("/v1/completions", {"prompt": "x"}, openai),
    "responses": ("/v1/responses", {"input": "x"}, openai),
    "messages": ("/v1/messages", {"model": "fake", "max_tokens": 4, "messages": HI}, anthropic),
    "ollama chat": ("/api/chat", {"model": "fake", "messages": HI}, ollama),
    "ollama generate": ("/api/generate", {"model": "fake", "prompt": "x"}, ollama),
    "sglang": ("/generate", {"text": "x"}, openai),
    "llamacpp": ("/completion", {"prompt": "x"}, llamacpp),
}

# The family, what is wrong, and of the error: the path, the value as it is shown, and what it says of the limit.
CASES = [
    ("chat", {"temperature": 2.5}, "$.temperature", "2.5", "2"),
    ("chat", {"max_tokens": 0}, "$.max_tokens", "0", "at least 1"),
    ("chat", {"max_completion_tokens": 1000}, "$.max_completion_tokens", "1000", str(MAX_MODEL_LEN)),
    ("chat", {"messages": LONG_TALK}, "$.messages", str(len(LONG) + 5), str(MAX_MODEL_LEN)),
    ("chat", {"messages": [{"role": "user", "content": 3}]}, "$.messages[0].content", "3", "string"),
    ("chat", {"logprobs": True, "top_logprobs": 21}, "$.top_logprobs", "21", "20"),
    ("chat", {"logit_bias": {"a": 1, "b": 2}}, "$.logit_bias", "'a', 'b'", "token ids"),
    ("chat", {"logit_bias": {"999": 1}}, "$.logit_bias", "999", "260"),
    ("chat", {"stop_token_ids": [999]}, "$.stop_token_ids", "999", "260"),
    ("chat", {"stream_options": {"include_usage": False}}, "$.stream_options", "stream_options", "stream to true"),
    ("chat", {"tool_choice": "auto"}, "$.tool_choice", "auto", "tools"),
    ("chat", {"tool_choice": "required"}, "$.tools", "required", "tools"),
    (
        "chat",
        {"tools": [{"function": {"name": "f"}}], "tool_choice": "required", "structured_outputs": {"regex": "a"}},
        "$.structured_outputs.regex",
        "tool_choice",
        "one of them",
    ),
    ("chat", {"max_tokens": True}, "$.max_tokens", "is true", "integer"),
    ("chat", {"messages": [{"role": "user", "content": None}]}, "$.messages[0].content", "is null", "string"),
    (
        "chat",
        {"response_format": {"type": "json_object", "schema": 3}},
        "$.response_format.schema",
        "3",
        "JSON schema",
    ),
    (
        "chat",
        {"response_format": {"type": "json_object", "schema": WEIRD}},
        "$.response_format.schema.properties.a.type",
        "weird",
        "cannot be enforced",
    ),
    ("chat", {"reasoning_effort": "extra_high"}, "$.reasoning_effort", "'extra_high'", "'xhigh' or 'max'"),
    (
        "chat",
        {"structured_outputs": {"json": {}, "regex": "a"}},
        "$.structured_outputs",
        "holds json and regex",
        "give exactly one of json, regex, choice, grammar, json_object, structural_tag.",
    ),
    ("completions", {"temperature": -1}, "$.temperature", "-1", "0"),
    ("completions", {"prompt": [999]}, "$.prompt", "999", "out of vocabulary: the 260 ids"),
    ("completions", {"prompt": ["x", LONG]}, "$.prompt[1]", str(len(LONG) + 1), str(MAX_MODEL_LEN)),
    ("completions", {"max_tokens": 1000}, "$.max_tokens", "1000", str(MAX_MODEL_LEN)),
    ("completions", {"guided_json": WEIRD}, "$.guided_json.properties.a.type", "weird", "cannot be enforced"),
    ("completions", {"stream_options": {}}, "$.stream_options", "stream_options", "stream to true"),
    ("responses", {"temperature": 2.5}, "$.temperature", "2.5", "2"),
    ("responses", {"reasoning": {"effort": "hihg"}}, "$.reasoning.effort", "'hihg'", "'high'"),
    ("responses", {"max_output_tokens": 1000}, "$.max_output_tokens", "1000", str(MAX_MODEL_LEN)),
    ("responses", {"input": LONG}, "$.input", str(len(LONG) + 5), str(MAX_MODEL_LEN)),
    ("responses", {"previous_response_id": "resp_x"}, "$.previous_response_id", "resp_x", "not found"),
    ("responses", {"store": False, "background": True}, "$.background", "background", "`store` is true"),
    ("messages", {"temperature": 1.5}, "$.temperature", "1.5", "1"),
    ("messages", {"max_tokens": "4"}, "$.max_tokens", "'4'", "integer"),
    ("messages", {"messages": LONG_TALK}, "$.messages", f"{len(LONG) + 5} tokens", f"> {MAX_MODEL_LEN - 1} maximum"),
    ("messages", {"stop_sequences": ["x"] * 17}, "$.stop_sequences", "17", "16"),
    (
        "messages",
        {"output_config": {"format": {"type": "json_schema", "schema": WEIRD}}},
        "$.output_config.format.schema.properties.a.type",
        "weird",
        "cannot be enforced",
    ),
    (
        "messages",
        {"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "tool", "name": "g"}},
        "$.tool_choice",
        "'g'",
        "'f'",
    ),
    ("ollama chat", {"options": {"temperature": 2.5}}, "$.options.temperature", "2.5", "2"),
    ("ollama chat", {"options": {"repeat_penalty": 1e9}}, "$.options.repeat_penalty", "1000000000", "1000000"),
    ("ollama chat", {"options": {"stop": ["x"] * 17}}, "$.options.stop", "17", "16"),
    ("ollama chat", {"format": WEIRD}, "$.format.properties.a.type", "weird", "cannot be enforced"),
    ("ollama chat", {"messages": LONG_TALK}, "$.messages", str(len(LONG) + 5), str(MAX_MODEL_LEN)),
    ("ollama chat", {"logprobs": True, "top_logprobs": 21}, "$.top_logprobs", "21", "20"),
    ("ollama generate", {"prompt": LONG}, "$.prompt", str(len(LONG) + 5), str(MAX_MODEL_LEN)),
    ("ollama generate", {"options": {"num_predict": 0}}, "$.options.num_predict", "0", "at least 1"),
    ("sglang", {"sampling_params": {"temperature": 2.5}}, "$.sampling_params.temperature", "2.5", "2"),
    ("sglang", {"text": LONG}, "$.text", str(len(LONG) + 1), str(MAX_MODEL_LEN)),
    ("sglang", {"sampling_params": {"max_new_tokens": 1000}}, "$.sampling_params.max_new_tokens", "1000", "64"),
    ("sglang", {"sampling_params": {"json_schema": WEIRD}}, "$.sampling_params.json_schema", "weird", "cannot be"),
    ("llamacpp", {"temperature": -1}, "$.temperature", "-1", "0"),
    ("llamacpp", {"prompt": LONG}, "$.prompt", str(len(LONG) + 1), f"{MAX_MODEL_LEN} tokens"),
    ("llamacpp", {"grammar": "no"}, "$.grammar", "$.grammar", "root ::="),
    ("llamacpp", {"json_schema": WEIRD}, "$.json_schema.properties.a.type", "weird", "cannot be enforced"),
    ("llamacpp", {"repeat_penalty": 1e9}, "$.repeat_penalty", "1000000000", "1000000"),
]


# Whether streamed or not; but what is wrong about stream_options is right in a stream.
ASKED = [(*case, stream) for case in CASES for stream in (False, True) if not (stream and "stream_options" in case[1])]


@pytest.mark.parametrize(
    ("family", "wrong", "path", "value", "limit", "stream"),
    ASKED,
    ids=[f"{case[0]} {case[2]}{' streamed' if case[5] else ''}" for case in ASKED],
)
async def test_path_value_and_limit_are_told(client, llm, family, wrong, path, value, limit, stream):
    route, base, read = FAMILIES[family]
    answer = await client.post(route, json=base | {"stream": stream} | wrong)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/json"
    param, message = read(answer.json())
    if param is None:
        assert path in message, message
    else:
        assert (param == path) or (family == "sglang" and param.startswith(path)), (param, message)
    assert value in message, message
    assert limit in message, message
    assert not llm.streams, "the engine holds nothing"


@pytest.mark.parametrize("family", FAMILIES)
async def test_what_is_no_request_at_all(client, family):
    route, _, read = FAMILIES[family]
    for content, said in ((b"{", "not valid JSON"), (b"[]", "object"), (b"", "empty")):
        answer = await client.post(route, content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 400, answer.text
        assert said in read(answer.json())[1]
    answer = await client.get(route)
    assert answer.status_code == 405
    assert re.search(r"use .*POST", read(answer.json())[1])


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"sglang"}))
async def test_models_that_are_not_served(client, family):
    route, base, read = FAMILIES[family]
    answer = await client.post(route, json=base | {"model": "nope"})
    assert answer.status_code == 404, answer.text
    param, message = read(answer.json())
    assert "'nope'" in message
    assert re.search(r"'fake(:latest)?'", message), message
    assert param in (None, "$.model")


@pytest.mark.parametrize(
    "words",
    ["prompt is too long", "longer than the model's context length", "This model's maximum context length is 64"],
)
async def test_of_a_long_prompt_openais_clients_are_told_in_words_they_look_for(client, words):
    answer = await client.post("/v1/chat/completions", json={"messages": LONG_TALK})
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
    assert answer.json()["error"]["code"] == "context_length_exceeded"
