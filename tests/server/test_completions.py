"""Completions, not streamed."""

import pytest

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
    assert "prompt_logprobs" not in choice


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
        answer = await client.post(PATH, json={"prompt": ["a", "b"], "n": 128})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "$.n")
