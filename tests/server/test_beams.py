"""Beam search over HTTP. In the fake engine every first place is the same: b likelier than a, and a than c."""

import asyncio

import pytest

from quire.core.errors import GenerationFailed

pytestmark = pytest.mark.anyio

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BEAMS = {"use_beam_search": True, "n": 2, "max_tokens": 2}
BODIES = [(CHAT, {"messages": [{"role": "user", "content": "hi"}]}), (COMPLETIONS, {"prompt": "x"})]


async def test_completions_are_the_best_beams(client, llm):
    answer = (await client.post(COMPLETIONS, json={"prompt": ["x", "y"], "temperature": 0} | BEAMS)).json()
    assert [(c["index"], c["text"], c["finish_reason"]) for c in answer["choices"]] == [
        (0, "bb", "length"),
        (1, "ba", "length"),
        (2, "bb", "length"),
        (3, "ba", "length"),
    ]
    assert answer["usage"] | {"prompt_tokens_details": None} == {
        "prompt_tokens": 4,
        "completion_tokens": 8,
        "total_tokens": 12,
        "prompt_tokens_details": None,
    }
    steps = [request.prompt.tolist() for request in llm.requests if request.prompt[1] == ord("x")]
    assert steps == [[257, 120], [257, 120, 98], [257, 120, 97]]
    assert {request.params.max_tokens for request in llm.requests} == {1}
    assert not llm.streams and not llm.aborted


async def test_chat_answers_with_the_best_beams(client):
    path, body = BODIES[0]
    answer = (await client.post(path, json=body | BEAMS | {"best_of": 3, "logprobs": True, "top_logprobs": 1})).json()
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["bb", "ba"]
    (first, second) = answer["choices"][1]["logprobs"]["content"]
    assert (first["token"], first["logprob"], second["token"], second["logprob"]) == ("b", -0.75, "a", -1.5)
    assert [top["token"] for top in second["top_logprobs"]] == ["b"]


async def test_an_end_of_sequence_ends_a_beam(client, llm):
    llm.eos_token_ids = (ord("a"),)
    answer = (await client.post(COMPLETIONS, json={"prompt": "x"} | BEAMS | {"length_penalty": 0.0})).json()
    assert [(c["text"], c["finish_reason"], c["stop_reason"]) for c in answer["choices"]] == [
        ("", "stop", None),
        ("bb", "length", None),
    ]


async def test_stops_of_the_request_end_a_beam(client):
    body = {"prompt": "x", "length_penalty": 0.0, "include_stop_str_in_output": True} | BEAMS
    for stop in ({"stop": "a"}, {"stop_token_ids": [97]}):
        first = (await client.post(COMPLETIONS, json=body | stop)).json()["choices"][0]
        assert (first["text"], first["finish_reason"]) == ("a", "stop")
        assert [first["stop_reason"]] in list(stop.values()) or first["stop_reason"] == stop["stop"]


@pytest.mark.parametrize(("path", "base"), BODIES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("stream", True), ("temperature", 0.5), ("top_p", 0.5), ("top_k", 3), ("min_p", 0.1), ("prompt_logprobs", 1)),
        ("logprob_token_ids", [1]),
        *(("presence_penalty", 1), ("frequency_penalty", 1), ("repetition_penalty", 1.5), ("logit_bias", {"1": 1})),
        *(
            ("allowed_token_ids", [1]),
            ("bad_words", ["x"]),
            ("repetition_detection", {"max_pattern_size": 2, "min_count": 2}),
        ),
    ],
)
async def test_what_cannot_be_combined_is_named(client, llm, path, base, name, value):
    answer = await client.post(path, json=base | BEAMS | {name: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, f"$.{name}")
    assert not llm.requests


async def test_neutral_values_can(client):
    neutral = {"temperature": 1, "top_p": 1.0, "top_k": -1, "presence_penalty": 0, "logit_bias": {}, "stream": False}
    assert (await client.post(COMPLETIONS, json={"prompt": "x"} | BEAMS | neutral)).status_code == 200


@pytest.mark.parametrize("scored", [{"logprobs": 1}, {"max_tokens": 0}])
async def test_the_prompt_is_not_scored(client, scored):
    answer = await client.post(COMPLETIONS, json={"prompt": "x", "echo": True} | BEAMS | scored)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "$.echo")
    assert (await client.post(COMPLETIONS, json={"prompt": "x", "echo": True} | BEAMS)).json()["choices"][0][
        "text"
    ] == "xbb"


@pytest.mark.parametrize(("path", "base"), BODIES)
@pytest.mark.parametrize("name", ["n", "best_of"])
async def test_a_search_too_wide_for_the_engine(client, llm, path, base, name):
    answer = await client.post(path, json=base | {"use_beam_search": True, name: 21})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, f"$.{name}")
    assert "--max-logprobs" in answer.json()["error"]["message"]
    assert not llm.requests


async def test_a_shape_cannot_be_searched_for(client, llm):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    answer = await client.post(CHAT, json=BODIES[0][1] | BEAMS | {"tools": tools, "tool_choice": "required"})
    assert answer.status_code == 400
    assert not llm.requests


async def test_a_prompt_at_fault_is_named(client, llm):
    answer = await client.post(COMPLETIONS, json={"prompt": [[1], [999]]} | BEAMS)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "$.prompt[1]")
    assert not llm.streams


async def test_a_search_that_is_aborted_gives_what_there_is(client, llm):
    llm.close_gate()
    asked = asyncio.ensure_future(client.post(COMPLETIONS, json={"prompt": "x"} | BEAMS | {"max_tokens": 9}))
    await llm.submitted.wait()
    llm.submitted.clear()
    llm.release()
    await llm.submitted.wait()
    client._transport.app.state.service.abort_all()
    choices = (await asked).json()["choices"]
    assert [(c["text"], c["finish_reason"]) for c in choices] == [("b", "abort"), ("a", "abort")]
    assert not llm.streams


async def test_a_search_fails_as_its_steps_do(client, llm):
    llm.breaks = GenerationFailed("The request failed.")
    answer = await client.post(COMPLETIONS, json={"prompt": "x"} | BEAMS)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "generation_failed")
    assert not llm.streams
