"""Conversations, not streamed: what reaches the engine, and the shape of what comes back."""

import pytest

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]


async def test_answer_has_every_field_of_the_api(client, llm):
    llm.num_cached_tokens = 2
    answer = (await client.post(PATH, json={"messages": HI, "max_tokens": 3}, headers={"x-request-id": "r-1"})).json()
    assert answer.pop("created") > 1.7e9
    assert answer.pop("system_fingerprint").startswith("quire-")
    assert answer == {
        "id": "chatcmpl-r-1",
        "object": "chat.completion",
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "abc", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
                "stop_reason": None,
                "matched_stop": None,
                "token_ids": None,
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
        "prompt_logprobs": None,
        "prompt_token_ids": None,
    }
    assert not llm.streams, "the engine holds nothing"


async def test_settings_reach_the_engine(client, sampled):
    settings = {
        "n": 2,
        "temperature": 1,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.1,
        "presence_penalty": -1,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.5,
        "seed": 9,
        "stop_token_ids": [5],
        "min_tokens": 1,
        "allowed_token_ids": [1, 2],
        "bad_words": ["no"],
        "prompt_logprobs": 2,
        "ignore_eos": True,
        "skip_special_tokens": False,
        "include_stop_str_in_output": True,
        "truncate_prompt_tokens": 5,
    }
    body = {"messages": HI, "stop": "END", "logit_bias": {"65": 3}, "max_completion_tokens": 4, "max_tokens": 9}
    assert (await client.post(PATH, json=body | settings)).status_code == 200
    params = sampled()
    listed = {name: list(v) if isinstance(v := getattr(params, name), tuple) else v for name in settings}
    assert listed == settings
    assert (params.stop, params.logit_bias, params.max_tokens) == (("END",), {65: 3.0}, 4)


async def test_defaults_are_the_models_then_ours(client, sampled):
    await client.post(PATH, json={"messages": HI, "temperature": None, "top_p": None})
    assert (sampled().temperature, sampled().top_p, sampled().max_tokens) == (0.5, 1.0, None)
    await client.post(PATH, json={"messages": HI, "temperature": 0})
    assert sampled().temperature == 0


@pytest.mark.parametrize(
    "extra",
    [
        {"tools": []},
        {"tools": None},
        {"stop": []},
        {"tool_choice": "none"},
        {"tool_choice": "auto", "tools": []},
        {"stream_options": None},
        {"response_format": {"type": "text"}},
        {"modalities": ["text"]},
        {"logit_bias": {}},
        {"logprobs": None, "top_logprobs": None},
        {"best_of": 1},
        {"use_beam_search": False},
        {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "parallel_tool_calls": True},
        {"prediction": {"type": "content", "content": "x"}, "cache_prompt": False, "unheard_of": 1},
        {"model": "also-fake"},
        {"model": None},
    ],
)
async def test_harmless_fields_are_taken(client, extra):
    answer = await client.post(PATH, json={"messages": HI, "max_tokens": 1, **extra})
    assert answer.status_code == 200, answer.text


async def test_messages_are_made_ready_for_the_template(client, llm):
    messages = [
        {"role": "developer", "content": "be"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "name": None},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "3"},
    ]
    await client.post(PATH, json={"messages": messages, "max_tokens": 1})
    assert bytes(llm.requests[-1].prompt.tolist()).decode() == "s:be|u:one\ntwo|a:|t:3|a:"


async def test_a_refusal_is_what_the_assistant_said(client, llm):
    messages = [
        {"role": "assistant", "content": [{"type": "text", "text": "No:"}, {"type": "refusal", "refusal": "never"}]},
        {"role": "assistant", "content": None, "refusal": "not that"},
        {"role": "assistant", "content": "yes", "refusal": None},
    ]
    answer = await client.post(PATH, json={"messages": messages, "max_tokens": 1})
    assert answer.status_code == 200, answer.text
    assert bytes(llm.requests[-1].prompt.tolist()).decode() == "a:No:\nnever|a:not that|a:yes|a:"


async def test_template_options(client, llm):
    body = {"messages": HI, "max_tokens": 1, "chat_template_kwargs": {"thinking": 1}, "add_generation_prompt": False}
    await client.post(PATH, json=body)
    assert bytes(llm.requests[-1].prompt.tolist()).decode() == "u:hi|thinking=1"
    await client.post(PATH, json={"messages": HI, "max_tokens": 1, "add_special_tokens": True})
    assert llm.requests[-1].prompt[0] == 257


async def test_echo_begins_with_the_message_that_is_continued(client):
    messages = [*HI, {"role": "assistant", "content": "Once "}]
    body = {"messages": messages, "max_tokens": 2, "echo": True, "continue_final_message": True}
    assert (await client.post(PATH, json=body)).json()["choices"][0]["message"]["content"] == "Once ab"


async def test_several_continuations(client):
    answer = (await client.post(PATH, json={"messages": HI, "max_tokens": 2, "n": 3})).json()
    assert [(c["index"], c["message"]["content"]) for c in answer["choices"]] == [(0, "ab"), (1, "bc"), (2, "cd")]
    assert answer["usage"]["completion_tokens"] == 6


async def test_logprobs(client):
    body = {"messages": HI, "max_tokens": 1, "logprobs": True, "top_logprobs": 3}
    (entry,) = (await client.post(PATH, json=body)).json()["choices"][0]["logprobs"]["content"]
    assert (entry["token"], entry["logprob"], entry["bytes"]) == ("a", -1.5, [97])
    assert [(top["token"], top["logprob"]) for top in entry["top_logprobs"]] == [
        ("b", -0.75),
        ("a", -1.5),
        ("c", -2.25),
    ]


async def test_top_logprobs_are_the_likeliest_and_not_the_chosen(client):
    body = {"messages": HI, "max_tokens": 1, "logprobs": True}
    (entry,) = (await client.post(PATH, json=body | {"top_logprobs": 1})).json()["choices"][0]["logprobs"]["content"]
    assert [top["token"] for top in entry["top_logprobs"]] == ["b"]
    (entry,) = (await client.post(PATH, json=body)).json()["choices"][0]["logprobs"]["content"]
    assert entry["top_logprobs"] == []


async def test_logprobs_of_tokens_by_name(client, llm):
    body = {"messages": HI, "max_tokens": 2, "logprobs": True, "top_logprobs": 3, "logprob_token_ids": [122, 98, 122]}
    content = (await client.post(PATH, json=body)).json()["choices"][0]["logprobs"]["content"]
    shown = [[(top["token"], top["logprob"]) for top in entry["top_logprobs"]] for entry in content]
    assert shown == [
        [("a", -1.5), ("z", llm.named_logprob(122)), ("b", llm.named_logprob(98))],
        [("b", -1.5), ("z", llm.named_logprob(122))],
    ]


async def test_tokens_are_shown_when_asked_for(client):
    body = {"messages": HI, "max_tokens": 2, "return_token_ids": True, "prompt_logprobs": 0}
    answer = (await client.post(PATH, json=body | {"logprobs": True, "return_tokens_as_token_ids": True})).json()
    assert answer["prompt_token_ids"] == list(b"u:hi|a:")
    assert answer["choices"][0]["token_ids"] == [97, 98]
    assert answer["choices"][0]["logprobs"]["content"][0]["token"] == "token_id:97"
    assert answer["prompt_logprobs"][0] is None
    assert answer["prompt_logprobs"][1] == {"58": {"logprob": -1.5, "rank": 2, "decoded_token": ":"}}


async def test_a_model_without_a_template_says_so(client, llm):
    llm.chat_template = None
    answer = await client.post(PATH, json={"messages": HI})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "$.messages")


async def test_request_priority_and_salt_reach_the_engine(client, llm):
    await client.post(
        PATH, json={"messages": HI, "max_tokens": 1, "priority": -3, "cache_salt": "s", "request_id": "x"}
    )
    request = llm.requests[-1]
    assert (request.priority, request.cache_salt, request.request_id) == (-3, "s", "x")


@pytest.mark.parametrize("path", [PATH, "/v1/completions"])
@pytest.mark.parametrize(
    ("extra", "wanted"),
    [
        ({"n_predict": 3}, {"max_tokens": 3}),
        ({"n_predict": -1}, {"max_tokens": None}),
        ({"n_predict": 3, "max_tokens": 2}, {"max_tokens": 2}),
        ({"repeat_penalty": 1.5}, {"repetition_penalty": 1.5, "penalty_window": None}),
        ({"repeat_penalty": 1.5, "repeat_last_n": 8}, {"repetition_penalty": 1.5, "penalty_window": 8}),
        ({"presence_penalty": 1.5, "repeat_last_n": 0}, {"presence_penalty": 0.0}),
        ({"typical_p": 1, "mirostat": 0, "top_n_sigma": -1, "lora": []}, {}),
    ],
)
async def test_settings_by_llamacpps_names(client, sampled, path, extra, wanted):
    answer = await client.post(path, json={"messages": HI, "prompt": "x", **extra})
    assert answer.status_code == 200, answer.text
    assert {name: getattr(sampled(), name) for name in wanted} == wanted


@pytest.mark.parametrize(
    "extra", [{"n_predict": -3}, {"mirostat": 2}, {"typical_p": 0.5}, {"dry_multiplier": 0.8}, {"lora": [{"id": 0}]}]
)
async def test_settings_of_llamacpps_that_are_not_here(client, llm, extra):
    (name,) = extra
    answer = await client.post(PATH, json={"messages": HI, **extra})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, f"$.{name}")
    assert not llm.requests


@pytest.mark.parametrize("path", [PATH, "/v1/completions"])
async def test_what_ended_it_is_told_to_sglangs_clients(client, llm, path):
    llm.says = "ab"
    body = {"messages": HI, "prompt": "x"}
    for stopped_by, told in ((None, ord("b")), ("c", "c")):
        llm.stop_reason = stopped_by
        (choice,) = (await client.post(path, json=body)).json()["choices"]
        assert (choice["finish_reason"], choice["matched_stop"]) == ("stop", told)
