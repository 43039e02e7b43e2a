"""llama.cpp's routes: its fields, its answers, its streams, its errors."""

import asyncio
import itertools
import json
from types import SimpleNamespace

import pytest

from quire.core.outputs import RequestMetrics
from quire.server.answers import llamacpp as answers

pytestmark = pytest.mark.anyio

PATH = "/completion"
NUMBERS = {"cache_n": 0, "prompt_n": 3, "predicted_n": 4}


def events(text):
    assert text.endswith("\n\n") and "[DONE]" not in text
    return [json.loads(event.removeprefix("data: ")) for event in text.strip().split("\n\n")]


async def test_answer_has_every_field(client):
    answer = (await client.post(PATH, json={"prompt": "xy", "n_predict": 4})).json()
    settings, timings = answer.pop("generation_settings"), answer.pop("timings")
    assert answer == {
        "index": 0,
        "content": "abcd",
        "tokens": [],
        "id_slot": -1,
        "stop": True,
        "model": "fake",
        "tokens_predicted": 4,
        "tokens_evaluated": 3,
        "prompt": "<257>xy",
        "has_new_line": False,
        "truncated": False,
        "stop_type": "limit",
        "stopping_word": "",
        "tokens_cached": 6,
    }
    assert {name: timings[name] for name in NUMBERS} == NUMBERS
    assert all(
        timings[name] >= 0 for name in ("prompt_ms", "prompt_per_second", "predicted_ms", "predicted_per_second")
    )
    assert (settings["n_predict"], settings["top_k"], settings["seed"]) == (4, 40, 2**32 - 1)
    assert settings["temperature"] == 0.5  # the model's own


async def test_defaults_are_the_models_then_llamacpps(client, llm, sampled):
    llm.default_params = {"top_k": 7, "repetition_penalty": 1.5}
    assert (await client.post(PATH, json={"prompt": "x", "n_predict": 1})).status_code == 200
    params = sampled()
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (0.8, 7, 0.95, 0.05)
    assert (params.repetition_penalty, params.penalty_window, params.max_tokens) == (1.5, 64, 1)


async def test_settings_reach_the_engine(client, sampled, llm):
    body = {
        "prompt": "x",
        "n_predict": 5,
        "temperature": 0.25,
        "top_k": -1,
        "top_p": 0.5,
        "min_p": 0,
        "repeat_penalty": 1.5,
        "repeat_last_n": -1,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "seed": 9,
        "stop": ["q", "r"],
        "ignore_eos": True,
        "logit_bias": [[97, 1.5], ["bc", -2], [100, False]],
        "n_probs": 2,
        "cache_prompt": False,
    }
    assert (await client.post(PATH, json=body)).status_code == 200
    params = sampled()
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (0.25, 0, 0.5, 0)
    assert (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) == (1.5, 1, -1)
    assert (params.penalty_window, params.seed, params.stop, params.ignore_eos) == (64, 9, ("q", "r"), True)
    assert params.logit_bias == {97: 1.5, 98: -2.0, 99: -2.0, 100: -100.0}
    assert params.logprobs == 2
    assert llm.requests[-1].cache_salt  # nobody else's


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"seed": -1}, ("seed", None)),
        ({"seed": 2**32 - 1}, ("seed", None)),
        ({"n_predict": -1}, ("max_tokens", None)),
        ({"max_tokens": 3}, ("max_tokens", 3)),
        ({"n_predict": 1000}, ("max_tokens", 64)),
        ({"n_cmpl": 2}, ("n", 2)),
        ({"n": 2}, ("n", 2)),
        ({"stop": "x"}, ("stop", ("x",))),
        ({"logit_bias": {"97": 2, "yz": False}}, ("logit_bias", {97: 2.0, 121: -100.0, 122: -100.0})),
        ({"repeat_penalty": 1.5, "repeat_last_n": 0}, ("repetition_penalty", 1.0)),
        ({"repeat_penalty": 1.5, "repeat_last_n": 9}, ("penalty_window", 9)),
        ({"repeat_last_n": 9}, ("penalty_window", None)),
        ({"samplers": ["top_k", "temperature"]}, ("top_p", 1.0)),
        ({"samplers": ["top-k", "typ_p"], "temperature": 0.3}, ("temperature", 1.0)),
        ({"samplers": "kt"}, ("top_p", 1.0)),
        ({"samplers": "edkypmxt", "top_p": 0.3}, ("top_p", 0.3)),
        ({"samplers": ["top_k", "top_p", "infill"]}, ("temperature", 0.0)),
        ({"samplers": ["top_k"], "repeat_penalty": 2}, ("repetition_penalty", 1.0)),
        ({"samplers": ["penalties"], "repeat_penalty": 2}, ("repetition_penalty", 2)),
    ],
)
async def test_spellings(client, sampled, given, expected):
    assert (await client.post(PATH, json={"prompt": "x"} | given)).status_code == 200
    name, value = expected
    assert getattr(sampled(), name) == value


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("xy", [[257, 120, 121]]),
        ([120, 121], [[120, 121]]),
        ([120, "yz", 1, "a"], [[120, 121, 122, 1, 97]]),
        (["x", "y"], [[257, 120], [257, 121]]),
        (["x", [1, 2], ["y", 3], {"prompt_string": "z"}], [[257, 120], [1, 2], [257, 121, 3], [257, 122]]),
        ({"prompt_string": "x", "multimodal_data": []}, [[257, 120]]),
        ([["x", 1]], [[257, 120, 1]]),
    ],
)
async def test_every_form_of_prompt(client, llm, prompt, ids):
    answer = (await client.post(PATH, json={"prompt": prompt, "n_predict": 1})).json()
    assert [request.prompt.tolist() for request in llm.requests] == ids
    assert isinstance(answer, list) == (len(ids) > 1)
    if len(ids) > 1:
        assert [(one["index"], one["content"]) for one in answer] == [(i, "a") for i in range(len(ids))]


async def test_several_answers_to_one_prompt(client):
    answer = (await client.post("/completions", json={"prompt": "x", "n_predict": 2, "n_cmpl": 2})).json()
    assert [(one["index"], one["content"]) for one in answer] == [(0, "ab"), (1, "bc")]


async def test_nothing_predicted(client, sampled):
    answer = (await client.post(PATH, json={"prompt": "x", "n_predict": 0, "return_tokens": True})).json()
    assert (answer["content"], answer["tokens"], answer["tokens_predicted"]) == ("", [], 0)
    assert sampled().max_tokens == 1
    (only,) = events((await client.post(PATH, json={"prompt": "x", "n_predict": 0, "stream": True})).text)
    assert only["stop"] is True


async def test_how_it_stopped(client, llm):
    llm.says = "one\ntwo"
    answer = (await client.post(PATH, json={"prompt": "x"})).json()
    assert (answer["stop_type"], answer["stopping_word"], answer["has_new_line"]) == ("eos", "", True)
    llm.stop_reason = "word"
    answer = (await client.post(PATH, json={"prompt": "x"})).json()
    assert (answer["stop_type"], answer["stopping_word"]) == ("word", "word")


async def test_a_stream_has_tokens_and_ends_with_all_but_the_text(client):
    body = {"prompt": "xy", "n_predict": 3, "stream": True, "timings_per_token": True}
    *chunks, last = events((await client.post(PATH, json=body)).text)
    assert [chunk["content"] for chunk in chunks] == ["a", "b", "c"]
    assert [chunk["tokens"] for chunk in chunks] == [[97], [98], [99]]
    assert [chunk["tokens_predicted"] for chunk in chunks] == [1, 2, 3]
    assert all(chunk["stop"] is False and chunk["timings"]["prompt_n"] == 3 for chunk in chunks)
    assert (last["stop"], last["content"], last["tokens"], last["stop_type"]) == (True, "", [], "limit")
    assert last["generation_settings"]["stream"] is True
    assert (last["tokens_predicted"], last["tokens_evaluated"]) == (3, 3)


async def test_streams_of_several_prompts_are_told_apart(client):
    body = {"prompt": ["x", "y"], "n_predict": 2, "stream": True}
    found = events((await client.post(PATH, json=body)).text)
    for index in range(2):
        mine = [event for event in found if event["index"] == index]
        assert "".join(event["content"] for event in mine) == "ab"
        assert [event["stop"] for event in mine][-1] is True


async def test_probabilities(client):
    body = {"prompt": "x", "n_predict": 2, "n_probs": 2, "return_tokens": True}
    answer = (await client.post(PATH, json=body)).json()
    assert answer["tokens"] == [97, 98]
    first, second = answer["completion_probabilities"]
    assert (first["id"], first["token"], first["bytes"], first["logprob"]) == (97, "a", [97], -1.5)
    assert [(top["id"], top["logprob"]) for top in second["top_logprobs"]] == [(99, -0.75), (98, -1.5)]
    *chunks, last = events((await client.post(PATH, json=body | {"stream": True})).text)
    assert all(len(chunk["completion_probabilities"]) == 1 for chunk in chunks)
    assert "completion_probabilities" not in last


async def test_fields_that_are_asked_for(client):
    fields = ["content", "timings/prompt_n", "generation_settings/n_predict", "no/such", "content/deeper"]
    answer = (await client.post(PATH, json={"prompt": "x", "n_predict": 1, "response_fields": fields})).json()
    assert answer == {"content": "a", "timings/prompt_n": 2, "generation_settings/n_predict": 1}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("  a\n    b\n c\n", "  a\n    b\n "),
        ("a\n  b\n\tc\n", "a\n  b\n\t"),
        ("a\n\n  b", "a\n"),
        ("a\n  b\n  c", "a\n  b\n  c"),
    ],
)
async def test_a_line_indented_less_ends_it(client, llm, stream, text, kept):
    llm.says = text
    answer = await client.post(PATH, json={"prompt": "x", "n_indent": 2, "stream": stream})
    found = events(answer.text) if stream else [answer.json()]
    assert "".join(event["content"] for event in found) == kept
    assert found[-1]["stop_type"] == ("eos" if kept == text else "limit")
    assert bool(llm.aborted) == (kept != text)
    assert not llm.streams


async def test_time_ends_it_once_there_is_a_line(client, llm, monkeypatch):
    """Every look at the clock is a second later than the one before."""
    clock = itertools.count()
    monkeypatch.setattr(answers, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    llm.says = "ab\ncdefgh"
    for limit_ms, kept in ((1, "ab\n"), (1500, "ab\nc"), (60_000, "ab\ncdefgh")):
        answer = (await client.post(PATH, json={"prompt": "x", "t_max_predict_ms": limit_ms})).json()
        assert (answer["content"], answer["stop_type"]) == (kept, "eos" if kept == llm.says else "limit")
    assert len(llm.aborted) == 2


NEUTRAL = {
    "dynatemp_range": 0.0,
    "dynatemp_exponent": 1.0,
    "typical_p": 1.0,
    "tfs_z": 1,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.1,
    "dry_multiplier": 0,
    "dry_base": 1.75,
    "dry_sequence_breakers": ["\n"],
    "mirostat": 0,
    "mirostat_tau": 5.0,
    "top_n_sigma": -1,
    "adaptive_target": -1,
    "min_keep": 0,
    "lora": [],
    "post_sampling_probs": False,
    "return_progress": False,
    "id_slot": 3,
    "n_keep": -1,
    "grammar": "",
    "json_schema": None,
    "samplers": None,
    "image_data": [],
}


async def test_what_is_off_may_be_said(client):
    assert (await client.post(PATH, json={"prompt": "x", "n_predict": 1} | NEUTRAL)).status_code == 200


WRONG = [
    ({"dynatemp_range": 0.5}, "$.dynatemp_range"),
    ({"typical_p": 0.5}, "$.typical_p"),
    ({"xtc_probability": 0.5}, "$.xtc_probability"),
    ({"dry_multiplier": 0.8}, "$.dry_multiplier"),
    ({"mirostat": 2}, "$.mirostat"),
    ({"top_n_sigma": 1.5}, "$.top_n_sigma"),
    ({"adaptive_target": 0}, "$.adaptive_target"),
    ({"lora": [{"id": 0, "scale": 1}]}, "$.lora"),
    ({"post_sampling_probs": True}, "$.post_sampling_probs"),
    ({"samplers": ["top_k", "magic"]}, "$.samplers[1]"),
    ({"samplers": "kfypmt"}, "$.samplers"),
    ({"prompt": None}, "$.prompt"),
    ({"prompt": []}, "$.prompt"),
    ({"prompt": 3}, "$.prompt"),
    ({"prompt": [1, -1]}, "$.prompt[1]"),
    ({"prompt": ["x", [1, None]]}, "$.prompt[1][1]"),
    ({"prompt": {"prompt_string": "x", "multimodal_data": ["AA"]}}, "$.prompt.multimodal_data"),
    ({"prompt": {}}, "$.prompt.prompt_string"),
    ({"prompt": ["x", {"prompt_string": 1}]}, "$.prompt[1].prompt_string"),
    ({"prompt": [["x", 1], [999, 1]]}, "$.prompt[1]"),
    ({"logit_bias": 3}, "$.logit_bias"),
    ({"logit_bias": [[1]]}, "$.logit_bias[0]"),
    ({"logit_bias": [[1, True]]}, "$.logit_bias[0]"),
    ({"logit_bias": [[-1, 1]]}, "$.logit_bias[0]"),
    ({"logit_bias": {"1": 101}}, "$.logit_bias.1"),
    ({"grammar": "root ::= x", "json_schema": {}}, "$.grammar"),
    ({"temperature": 2.5}, "$.temperature"),
    ({"n_predict": -3}, "$.n_predict"),
    ({"n_cmpl": 2, "n_indent": 1}, "$.n_cmpl"),
    ({"response_fields": "content"}, "$.response_fields"),
    ({"n_probs": 21}, "$.n_probs"),
]


@pytest.mark.parametrize(("wrong", "param"), WRONG, ids=[json.dumps(w)[:50] for w, _ in WRONG])
async def test_what_is_wrong_is_named(client, llm, wrong, param):
    answer = await client.post(PATH, json={"prompt": "x", "n_predict": 1} | wrong)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (400, 400, "invalid_request_error"), answer.text
    assert error["param"] == param, error
    assert not llm.streams


async def test_a_prompt_too_long_has_a_type_of_its_own(client):
    error = (await client.post(PATH, json={"prompt": "x" * 70})).json()["error"]
    assert (error["code"], error["type"]) == (400, "exceed_context_size_error")
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (71, 64)
    assert "exceeds the available context size" in error["message"]


@pytest.mark.parametrize(("num_prompt", "n_predict", "is_truncated"), [(10, -1, True), (10, 4, False), (59, 4, False)])
async def test_a_full_context_is_told(client, num_prompt, n_predict, is_truncated):
    answer = (await client.post(PATH, json={"prompt": "x" * num_prompt, "n_predict": n_predict})).json()
    assert (answer["truncated"], answer["stop_type"]) == (is_truncated, "limit")


@pytest.fixture
def marks(llm):
    llm.tokenizer.named = {"<|fim_prefix|>": 256, "<|fim_suffix|>": 258, "<|fim_middle|>": 259}


async def test_infill(client, llm, sampled, marks):
    body = {"input_prefix": "ab", "input_suffix": "yz", "prompt": "c", "n_predict": 2}
    answer = (await client.post("/infill", json=body)).json()
    assert llm.requests[-1].prompt.tolist() == [257, 256, 97, 98, 258, 121, 122, 259, 99]
    assert sampled().stop_token_ids == (256, 258, 259)
    assert answer["content"] == "ab"
    extra = body | {"input_extra": [{"filename": "f", "text": "q"}, {"text": "r"}], "stream": True}
    assert events((await client.post("/infill", json=extra)).text)[-1]["stop"] is True
    assert llm.requests[-1].prompt.tolist()[1:5] == [*b"q\nr\n"]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"input_prefix": None}, "$.input_prefix"),
        ({"input_suffix": 3}, "$.input_suffix"),
        ({"input_extra": [{"filename": "ok"}]}, "$.input_extra[0].text"),
        ({"input_extra": [{"filename": 1, "text": "x"}]}, "$.input_extra[0].filename"),
    ],
)
async def test_infill_says_what_is_wrong(client, marks, wrong, param):
    answer = await client.post("/infill", json={"input_prefix": "a", "input_suffix": "b"} | wrong)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_infill_without_the_tokens_for_it(client):
    answer = await client.post("/infill", json={"input_prefix": "a", "input_suffix": "b"})
    assert answer.status_code == 400
    assert "fim_prefix" in answer.json()["error"]["message"]


async def test_apply_template(client, llm):
    body = {"messages": [{"role": "user", "content": "hi"}]}
    assert (await client.post("/apply-template", json=body)).json() == {"prompt": "u:hi|a:"}
    assert not llm.requests
    answer = await client.post("/apply-template", json={})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "$.messages")


async def test_props(client):
    props = (await client.get("/props")).json()
    assert (props["total_slots"], props["model_path"], props["model_alias"]) == (8, "org/fake", "fake")
    assert props["default_generation_settings"]["n_ctx"] == 64
    assert props["default_generation_settings"]["params"]["temperature"] == 0.5
    assert props["modalities"] == {"vision": False, "audio": False}
    assert props["build_info"].startswith("quire-") and props["is_sleeping"] is False
    assert "messages" in props["chat_template"]


async def test_slots_show_what_runs(client, llm):
    idle = (await client.get("/slots")).json()
    assert [slot["id"] for slot in idle] == list(range(8))
    assert not any(slot["is_processing"] or "params" in slot for slot in idle)
    llm.close_gate()
    asked = asyncio.ensure_future(client.post(PATH, json={"prompt": "x", "n_cmpl": 8, "n_predict": 3}))
    await llm.submitted.wait()
    await asyncio.sleep(0)
    llm.release()
    await asyncio.sleep(0)
    busy = (await client.get("/slots")).json()
    assert [slot["is_processing"] for slot in busy] == [True] * 8
    assert len({slot["id_task"] for slot in busy}) == 8
    assert (busy[0]["params"]["n_predict"], busy[0]["n_ctx"]) == (3, 64)
    told = busy[0]["next_token"]
    assert told["n_decoded"] + told["n_remain"] == 3
    full = await client.get("/slots?fail_on_no_slot=1")
    assert (full.status_code, full.json()["error"]["type"]) == (503, "unavailable_error")
    llm.release(9)
    await asked
    assert (await client.get("/slots?fail_on_no_slot=1")).status_code == 200


async def test_tokenize_in_its_shape(client):
    assert (await client.post("/tokenize", json={"content": "xy"})).json() == {"tokens": [120, 121]}
    framed = {"content": "x", "add_special": True, "with_pieces": True}
    assert (await client.post("/tokenize", json=framed)).json() == {
        "tokens": [{"id": 257, "piece": "<257>"}, {"id": 120, "piece": "x"}]
    }
    parts = (await client.post("/tokenize", json={"content": "á", "with_pieces": True})).json()
    assert [token["piece"] for token in parts["tokens"]] == [[195], [161]]
    assert (await client.post("/tokenize", json={"content": ""})).json() == {"tokens": []}
    assert (await client.post("/detokenize", json={"tokens": [120]})).json()["content"] == "x"
    answer = await client.post("/tokenize", json={"content": "x", "prompt": "x"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "$.content")


async def test_plain_text_that_would_be_special(client, llm):
    plain = {"content": "xy", "parse_special": False}
    assert (await client.post("/tokenize", json=plain)).json() == {"tokens": [120, 121]}
    llm.tokenizer.encode = lambda text, add_special_tokens=True: [256]
    answer = await client.post("/tokenize", json=plain)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "$.parse_special")


async def test_aliases(client):
    assert (await client.get("/v1/health")).json() == {"status": "ok"}
    assert (await client.get("/models")).json()["data"][0]["id"] == "fake"
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    assert (await client.post("/chat/completions", json=body)).json()["choices"][0]["message"]["content"] == "ab"
    assert (await client.post("/responses", json={"input": "hi", "max_output_tokens": 2})).json()[
        "status"
    ] == "incomplete"
    error = (await client.post("/responses", json={"input": 3})).json()["error"]
    assert (error["param"], set(error)) == ("$.input", {"message", "type", "param", "code"})


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
async def test_a_chats_tokens_are_counted(client, llm, path):
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    counted = (await client.post(path + "/input_tokens", json=body)).json()
    assert counted == {"object": "response.input_tokens", "input_tokens": len("u:hi|a:")}
    assert not llm.requests
    assert (await client.post(path, json=body)).json()["usage"]["prompt_tokens"] == counted["input_tokens"]
    refused = await client.post(path + "/input_tokens", json={"messages": [{"role": "user", "content": 3}]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "$.messages[0].content")
    assert (await client.post(path + "/input_tokens", json=body | {"model": "other"})).status_code == 404


async def test_a_responses_tokens_are_counted(client):
    counts = [await client.post(f"{root}/responses/input_tokens", json={"input": "hi"}) for root in ("", "/v1")]
    assert counts[0].json() == counts[1].json() == {"object": "response.input_tokens", "input_tokens": 7}


def test_the_first_token_costs_no_step():
    metrics = RequestMetrics(arrival_s=0.0, scheduled_s=0.0, first_token_s=2.0, last_token_s=5.0)
    told = answers.timings(0, 4, 4, metrics)
    assert (told.prompt_ms, told.prompt_per_token_ms, told.prompt_per_second) == (2000, 500, 2)
    assert (told.predicted_ms, told.predicted_per_token_ms, told.predicted_per_second) == (3000, 1000, 1)
    metrics.last_token_s = metrics.first_token_s
    alone = answers.timings(0, 4, 1, metrics)
    assert (alone.predicted_per_token_ms, alone.predicted_per_second) == (0, 0)


async def test_ignoring_the_end_is_making_none(client, llm, sampled):
    llm.eos_token_ids = (5, 97)
    body = {"prompt": "x", "n_predict": 1, "logit_bias": {"97": 3, "98": -2.5, "99": False}}
    settings = (await client.post(PATH, json=body)).json()["generation_settings"]
    told = [{"bias": 3, "token": 97}, {"bias": -2.5, "token": 98}, {"bias": None, "token": 99}]
    assert settings["logit_bias"] == told
    settings = (await client.post(PATH, json=body | {"ignore_eos": True})).json()["generation_settings"]
    assert sampled().logit_bias == {5: -100, 97: -100, 98: -2.5, 99: -100}
    assert {"bias": None, "token": 5} in settings["logit_bias"]
    settings = (await client.post(PATH, json={"prompt": "x", "n_predict": 1})).json()["generation_settings"]
    assert (settings["logit_bias"], settings["adaptive_target"]) == ([], -1)


async def test_timings_of_a_conversation(client):
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "timings_per_token": True}
    told = (await client.post("/chat/completions", json=body)).json()["timings"]
    assert (told["prompt_n"], told["cache_n"], told["predicted_n"]) == (7, 0, 2)
    streamed = await client.post(
        "/chat/completions", json=body | {"stream": True, "stream_options": {"include_usage": True}}
    )
    chunks = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert [chunk["timings"]["predicted_n"] for chunk in chunks if "timings" in chunk] == [2]
    assert chunks[-1]["usage"]["completion_tokens"] == 2
