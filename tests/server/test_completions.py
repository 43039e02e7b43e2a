"""Completions, not streamed."""

import pytest

from quire.server.schema.completion import CompletionRequest

pytestmark = pytest.mark.anyio

PATH = "/v1/completions"


async def test_answer_has_every_field_of_the_api(client, llm):
    answer = (await client.post(PATH, json={"prompt": "xy", "request_id": "q"})).json()
    assert answer.pop("created") > 1.7e9
    assert answer.pop("system_fingerprint").startswith("quire-")
    assert answer == {
        "id": "cmpl-q",
        "object": "text_completion",
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "text": "abcdefghijklmnop",
                "logprobs": None,
                "finish_reason": "length",
                "stop_reason": None,
                "matched_stop": None,
                "token_ids": None,
                "prompt_token_ids": None,
                "prompt_logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 16,
            "total_tokens": 19,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }
    assert not llm.streams


@pytest.mark.parametrize(
    ("prompt", "num_prompt_tokens"),
    [("xy", 3), (["xy", "z"], 5), ([1, 2, 3], 3), ([[1], [2, 3]], 3)],
)
async def test_four_forms_of_prompt(client, prompt, num_prompt_tokens):
    answer = (await client.post(PATH, json={"prompt": prompt, "max_tokens": 1})).json()
    assert answer["usage"]["prompt_tokens"] == num_prompt_tokens
    assert len(answer["choices"]) == (len(prompt) if isinstance(prompt, list) and type(prompt[0]) is not int else 1)


async def test_choices_are_numbered_by_prompt_then_continuation(client):
    answer = (await client.post(PATH, json={"prompt": ["x", "y"], "max_tokens": 2, "n": 2})).json()
    assert [(c["index"], c["text"]) for c in answer["choices"]] == [(0, "ab"), (1, "bc"), (2, "ab"), (3, "bc")]


async def test_logprobs_are_parallel_lists(client):
    answer = (await client.post(PATH, json={"prompt": "xy", "max_tokens": 2, "logprobs": 1})).json()
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["a", "b"],
        "token_logprobs": [-1.5, -1.5],
        "top_logprobs": [{"a": -1.5, "b": -0.75}, {"b": -1.5, "c": -0.75}],
        "text_offset": [0, 1],
    }


async def test_logprobs_of_tokens_by_name(client, llm):
    body = {"prompt": "xy", "max_tokens": 2, "logprobs": 3, "logprob_token_ids": [122, 98]}
    found = (await client.post(PATH, json=body)).json()["choices"][0]["logprobs"]
    assert found["top_logprobs"] == [
        {"a": -1.5, "z": llm.named_logprob(122), "b": llm.named_logprob(98)},
        {"b": -1.5, "z": llm.named_logprob(122)},
    ]
    body |= {"echo": True, "logprobs": 1, "add_special_tokens": False}
    found = (await client.post(PATH, json=body)).json()["choices"][0]["logprobs"]
    assert found["top_logprobs"][1] == {"y": -1.5, "z": -0.75, "b": llm.named_logprob(98)}
    assert list(found["top_logprobs"][2]) == ["a", "z", "b"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PATH, {"prompt": "x", "logprob_token_ids": [1]}),
        (PATH, {"prompt": "x", "logprob_token_ids": [1], "logprobs": 0, "max_tokens": 0, "echo": True}),
        (PATH, {"prompt": "x", "logprob_token_ids": [9999], "logprobs": 0}),
        (PATH, {"prompt": "x", "logprob_token_ids": [*range(129)], "logprobs": 0}),
        (PATH, {"prompt": "x", "logprob_token_ids": [-1], "logprobs": 0}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "logprob_token_ids": [1]}),
        ("/v1/responses", {"input": "x", "logprob_token_ids": [1]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "logprob_token_ids": [1]}),
    ],
)
async def test_names_that_cannot_be_scored(client, llm, path, body):
    answer = await client.post(path, json=body)
    assert answer.status_code == 400 and "logprob_token_ids" in answer.text
    assert not llm.requests


async def test_echo_with_logprobs_covers_the_prompt_and_the_answer(client):
    """What evaluation harnesses score with: token-id prompts, echo, one token more."""
    body = {"prompt": [[120, 121, 122]], "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0, "seed": 1234}
    choice = (await client.post(PATH, json=body)).json()["choices"][0]
    found = choice["logprobs"]
    assert choice["text"] == "xyza"
    assert found["tokens"] == ["x", "y", "z", "a"]
    assert found["token_logprobs"] == [None, -1.5, -1.5, -1.5]
    assert found["text_offset"] == [0, 1, 2, 3]
    assert found["top_logprobs"][0] is None
    for token, value, top in list(zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True))[
        1:
    ]:
        assert top[token] == value
        assert max(top.values()) == -0.75
    assert choice["prompt_logprobs"] is None


async def test_echo_without_tokens_scores_the_prompt(client, sampled):
    body = {"prompt": "xy", "max_tokens": 0, "logprobs": 0, "echo": True, "add_special_tokens": False}
    answer = (await client.post(PATH, json=body)).json()
    assert sampled().max_tokens == 1
    assert answer["choices"][0]["text"] == "xy"
    assert answer["choices"][0]["logprobs"]["tokens"] == ["x", "y"]
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 0


async def test_echo_returns_the_prompt_as_it_was_written(client):
    answer = (await client.post(PATH, json={"prompt": "é<", "max_tokens": 1, "echo": True})).json()
    assert answer["choices"][0]["text"] == "é<a"


async def test_tokens_are_shown_when_asked_for(client):
    body = {"prompt": ["x", "y"], "max_tokens": 1, "return_token_ids": True, "prompt_logprobs": 0}
    choices = (await client.post(PATH, json=body)).json()["choices"]
    assert [(c["prompt_token_ids"], c["token_ids"]) for c in choices] == [([257, 120], [97]), ([257, 121], [97])]
    assert choices[0]["prompt_logprobs"] == [None, {"120": {"logprob": -1.5, "rank": 2, "decoded_token": "x"}}]


async def test_explicit_nulls_count_as_absent(client):
    nulls = dict.fromkeys(("logprobs", "seed", "stop", "suffix", "echo", "n", "user", "best_of", "max_tokens"))
    answer = await client.post(PATH, json={"prompt": "x", **nulls})
    assert answer.json()["usage"]["completion_tokens"] == 16


async def test_one_bad_prompt_of_many_leaves_nothing_running(client, llm):
    answer = await client.post(PATH, json={"prompt": [[1], [2], [999]]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "$.prompt[2]")
    assert not llm.streams
    assert len(llm.aborted) == 2


async def test_the_most_prompts(bring_up):
    async with bring_up(max_prompts=2) as client:
        assert (await client.post(PATH, json={"prompt": ["a", "b"], "max_tokens": 1})).status_code == 200
        answer = await client.post(PATH, json={"prompt": ["a", "b", "c"], "max_tokens": 1})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "$.prompt")
        for name in ("n", "best_of"):
            answer = await client.post(PATH, json={"prompt": ["a", "b"], name: 128})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "$.n")


async def test_the_best_of_several(client, sampled):
    """Later continuations of the fake engine are likelier."""
    body = {"prompt": "xy", "max_tokens": 3, "n": 2, "best_of": 4}
    answer = (await client.post(PATH, json=body)).json()
    assert [(c["index"], c["text"], c["logprobs"]) for c in answer["choices"]] == [(0, "def", None), (1, "cde", None)]
    assert answer["usage"]["completion_tokens"] == 12
    assert (sampled().n, sampled().logprobs) == (4, 0)
    asked = (await client.post(PATH, json=body | {"logprobs": 1})).json()
    assert len(asked["choices"][0]["logprobs"]["tokens"]) == 3
    assert sampled().logprobs == 1


async def test_best_of_as_many_as_are_returned_changes_nothing(client, sampled):
    answer = (await client.post(PATH, json={"prompt": "x", "max_tokens": 1, "n": 2, "best_of": 2})).json()
    assert [c["text"] for c in answer["choices"]] == ["a", "b"]
    assert sampled().logprobs is None


@pytest.mark.parametrize("wrong", [{"n": 3}, {"n": 1, "stream": True}])
async def test_best_of_that_cannot_be(client, llm, wrong):
    answer = await client.post(PATH, json={"prompt": "x", "best_of": 2} | wrong)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "$.best_of"
    assert not llm.requests


@pytest.fixture
def marks(llm):
    llm.tokenizer.named = {"<|fim_prefix|>": 256, "<|fim_suffix|>": 258, "<|fim_middle|>": 259}


async def test_suffix_asks_for_the_middle(client, llm, sampled, marks):
    answer = (
        await client.post(PATH, json={"prompt": "ab", "suffix": "yz", "max_tokens": 1, "stop_token_ids": [9]})
    ).json()
    assert llm.requests[-1].prompt.tolist() == [257, 256, 97, 98, 258, 121, 122, 259]
    assert sampled().stop_token_ids == (9, 256, 258, 259)
    assert answer["choices"][0]["text"] == "a"
    assert answer["usage"]["prompt_tokens"] == 8
    body = {"prompt": [[97], [98]], "suffix": "z", "max_tokens": 1, "ignore_eos": True, "add_special_tokens": False}
    assert (await client.post(PATH, json=body)).status_code == 200
    assert [r.prompt.tolist() for r in llm.requests[-2:]] == [[256, 97, 258, 122, 259], [256, 98, 258, 122, 259]]
    assert sampled().stop_token_ids == ()


async def test_suffix_streams(client, marks):
    answer = await client.post(PATH, json={"prompt": "ab", "suffix": "yz", "max_tokens": 2, "stream": True})
    assert answer.text.count('"text":"') == 3 and answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("other", [{"echo": True}, {"truncate_prompt_tokens": 3}])
async def test_suffix_stands_alone(client, marks, other):
    answer = await client.post(PATH, json={"prompt": "ab", "suffix": "yz"} | other)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, f"$.{next(iter(other))}")


async def test_suffix_without_the_tokens_for_it(client):
    error = (await client.post(PATH, json={"prompt": "ab", "suffix": "yz"})).json()["error"]
    assert (error["param"], error["code"]) == ("$.suffix", "unsupported_value")
    assert "fim_prefix" in error["message"]
    assert (await client.post(PATH, json={"prompt": "ab", "suffix": "", "max_tokens": 1})).status_code == 200


async def test_what_is_said_of_the_prompt_and_the_service(client):
    body = {"prompt": [[120, 121], [120]], "max_tokens": 1, "return_prompt_text": True, "service_tier": "auto"}
    answer = (await client.post(PATH, json=body)).json()
    assert [c["prompt_text"] for c in answer["choices"]] == ["xy", "x"]
    assert answer["service_tier"] == "default"
    streamed = (await client.post(PATH, json=body | {"stream": True})).text
    assert streamed.count('"prompt_text":"xy"') == 1
    assert streamed.count('"service_tier":"default"') == streamed.count("data: {")


async def test_offsets_are_of_the_text_even_where_tokens_are_ids(client):
    body = {"prompt": "xy", "max_tokens": 3, "logprobs": 0, "return_tokens_as_token_ids": True}
    found = (await client.post(PATH, json=body)).json()["choices"][0]["logprobs"]
    assert (found["tokens"][1], found["text_offset"]) == ("token_id:98", [0, 1, 2])


async def test_settings_reach_the_engine(client, sampled):
    body = {
        "prompt": "x",
        "max_tokens": 4,
        "min_tokens": 2,
        "truncate_prompt_tokens": 5,
        "truncation_side": "right",
        "repetition_detection": {"max_pattern_size": 8, "min_count": 3},
        "bad_words": ["no"],
        "allowed_token_ids": [97, 98],
    }
    assert (await client.post(PATH, json=body)).status_code == 200
    params = sampled()
    assert (params.min_tokens, params.truncation_side, params.bad_words) == (2, "right", ("no",))
    assert params.allowed_token_ids == (97, 98)
    wanted = params.repetition_detection
    assert (wanted.min_pattern_size, wanted.max_pattern_size, wanted.min_count) == (1, 8, 3)
    off = {"prompt": "x", "max_tokens": 1, "repetition_detection": {"max_pattern_size": 0}}
    assert (await client.post(PATH, json=off)).status_code == 200
    assert sampled().repetition_detection is None


IGNORED = {
    "session_id": "s",  # prefixes are found whoever asks
    "stream_interval": 4,  # what is new is said at once
    # of media that no model here reads
    "mm_payload": "tensors",
    "return_mm_kwargs": False,
    "mm_processor_kwargs": {},
    "media_io_kwargs": {},
    # of experts that no model here has
    "routed_experts_prompt_start": 0,
    "length_penalty": 1.0,  # of beams alone
}
REFUSED = [
    *("watermarking", "prompt_embeds", "return_weight_versions", "return_token_offsets"),
    *("kv_transfer_params", "ec_transfer_params", "vllm_xargs"),
]
FIELDS = """model prompt echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty seed stop stream
stream_options suffix temperature top_p user use_beam_search top_k min_p repetition_penalty watermarking length_penalty
stop_token_ids include_stop_str_in_output ignore_eos min_tokens skip_special_tokens spaces_between_special_tokens
truncate_prompt_tokens truncation_side allowed_token_ids prompt_logprobs logprob_token_ids bad_words prompt_embeds
add_special_tokens response_format structured_outputs priority request_id session_id return_tokens_as_token_ids
return_token_ids return_weight_versions routed_experts_prompt_start return_token_offsets mm_payload return_mm_kwargs
cache_salt kv_transfer_params ec_transfer_params vllm_xargs repetition_detection thinking_token_budget stream_interval
""".split()  # noqa: SIM905
"""Of vLLM's CompletionRequest."""


async def test_every_field_of_the_peer_is_honoured_refused_or_without_effect(client):
    known = set(CompletionRequest.model_fields) | set(CompletionRequest.refused)
    assert set(FIELDS) - known - set(IGNORED) == set()
    for name in REFUSED:
        answer = await client.post(PATH, json={"prompt": "x", name: [1] if "ids" in name else True})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, f"$.{name}")
    assert (await client.post(PATH, json={"prompt": "x", "max_tokens": 1} | IGNORED)).status_code == 200
