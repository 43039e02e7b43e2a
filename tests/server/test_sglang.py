"""SGLang's native face: /generate and what stands beside it."""

import asyncio
import json

import pytest

from quire.core.errors import InvalidRequest, PromptTooLong
from quire.core.messages import Pause

pytestmark = pytest.mark.anyio

TAG = '{"format": {"type": "const_string", "value": "x"}}'


async def ask(client, **body):
    answer = await client.post("/generate", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def short(count, **more):
    return {"max_new_tokens": count, **more}


async def events(client, **body):
    answer = await client.post("/generate", json=body | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = answer.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]


async def test_a_text(client, llm):
    llm.num_cached_tokens = 2
    found = await ask(client, text="hi", sampling_params=short(3), rid="mine")
    assert (found["text"], found["output_ids"]) == ("abc", [97, 98, 99])
    meta = found["meta_info"]
    assert meta.pop("e2e_latency") >= 0
    assert meta == {
        "id": "mine",
        "finish_reason": {"type": "length", "length": 3},
        "prompt_tokens": 3,
        "completion_tokens": 3,
        "cached_tokens": 2,
        "weight_version": "default",
    }
    assert llm.requests[-1].prompt.tolist() == [257, 104, 105]


async def test_put_and_ids(client, llm):
    answer = await client.put("/generate", json={"input_ids": [1, 2], "sampling_params": short(1)})
    assert answer.json()["text"] == "a"
    assert llm.requests[-1].prompt.tolist() == [1, 2]


async def test_batches_answer_lists(client, llm):
    found = await ask(client, text=["x", "y"], sampling_params=short(2), rid="b")
    assert [(one["text"], one["meta_info"]["id"]) for one in found] == [("ab", "b_0"), ("ab", "b_1")]
    found = await ask(client, input_ids=[[1]], sampling_params=[short(2)], rid=["own"])
    assert [one["meta_info"]["id"] for one in found] == ["own"]
    found = await ask(
        client,
        text=["x", "y"],
        sampling_params=[short(1), short(2, n=1, temperature=0)],
        return_logprob=[True, False],
        cache_salt=["s", "t"],
        extra_key="k",
    )
    assert [one["text"] for one in found] == ["a", "ab"]
    assert ["output_token_logprobs" in one["meta_info"] for one in found] == [True, False]
    assert [request.cache_salt for request in llm.requests[-2:]] == ["s\x1fk", "t\x1fk"]


async def test_several_continuations(client):
    found = await ask(client, text="x", sampling_params=short(2, n=2), rid="r")
    assert [(one["text"], one["meta_info"]["id"]) for one in found] == [("ab", "r_0"), ("bc", "r_1")]
    found = await ask(client, text=["x", "y"], sampling_params=short(1, n=2), rid="r")
    assert [one["meta_info"]["id"] for one in found] == ["r_0_0", "r_0_1", "r_1_0", "r_1_1"]


async def test_settings_reach_the_engine(client, llm, sampled):
    await ask(
        client,
        text="x",
        priority=3,
        sampling_params={
            "max_new_tokens": 9,
            "min_new_tokens": 2,
            "stop": "zz",
            "stop_token_ids": [7],
            "temperature": 0.25,
            "top_p": 0.5,
            "top_k": -1,
            "min_p": 0.1,
            "frequency_penalty": 0.5,
            "presence_penalty": 0.25,
            "repetition_penalty": 1.5,
            "ignore_eos": True,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": True,
            "no_stop_trim": True,
            "logit_bias": {"5": 1.0},
            "sampling_seed": 11,
            "regex": None,
        },
    )
    params = sampled()
    assert (params.max_tokens, params.min_tokens, params.stop, params.stop_token_ids) == (9, 2, ("zz",), (7,))
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.25, 0.5, 0, 0.1)
    assert (params.frequency_penalty, params.presence_penalty, params.repetition_penalty) == (0.5, 0.25, 1.5)
    assert (params.ignore_eos, params.skip_special_tokens, params.include_stop_str_in_output) == (True, False, True)
    assert (params.logit_bias, params.seed) == ({5: 1.0}, 11)
    assert llm.requests[-1].priority == -3  # SGLang's higher ones come first


async def test_defaults_are_the_models_and_sglangs(client, llm, sampled):
    await ask(client, text="x")
    assert (sampled().temperature, sampled().max_tokens) == (0.5, 64)  # 128, in a context of 64
    llm.info = llm.info.__class__(
        **{f: getattr(llm.info, f) for f in llm.info.__struct_fields__} | {"max_model_len": 999}
    )
    await ask(client, text="x")
    assert sampled().max_tokens == 128


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        ({"json_schema": '{"type": "object"}'}, ("json", '{"type": "object"}')),
        ({"json_schema": {"type": "object"}}, ("json", {"type": "object"})),
        ({"json_schema": "$$ANY$$"}, ("json_object", True)),
        ({"regex": "a+"}, ("regex", "a+")),
        ({"ebnf": 'root ::= "a"'}, ("grammar", 'root ::= "a"')),
        ({"structural_tag": TAG}, ("structural_tag", TAG)),
    ],
)
async def test_shapes(client, sampled, given, shape):
    await ask(client, text="x", sampling_params=given)
    wanted = sampled().structured_outputs
    assert (wanted.shape, getattr(wanted, wanted.shape)) == shape


async def test_stops(client, llm):
    llm.says = "yes."
    found = await ask(client, text="x", sampling_params=short(9))
    assert found["meta_info"]["finish_reason"] == {"type": "stop", "matched": ord(".")}


async def test_scores_of_what_is_generated(client, sampled):
    meta = (await ask(client, text="x", sampling_params=short(2), return_logprob=True))["meta_info"]
    assert meta["output_token_logprobs"] == [[-1.5, 97, None], [-1.5, 98, None]]
    assert meta["input_token_logprobs"] == []
    assert "output_top_logprobs" not in meta
    assert (sampled().logprobs, sampled().prompt_logprobs) == (0, None)
    meta = (
        await ask(
            client,
            text="x",
            sampling_params=short(1),
            return_logprob=True,
            top_logprobs_num=2,
            return_text_in_logprobs=True,
        )
    )["meta_info"]
    assert meta["output_token_logprobs"] == [[-1.5, 97, "a"]]
    assert meta["output_top_logprobs"] == [[[-0.75, 98, "b"], [-1.5, 97, "a"]]]
    assert meta["input_top_logprobs"] == []


async def test_scores_of_the_prompt(client):
    body = {"input_ids": [5, 6, 7], "sampling_params": short(0), "return_logprob": True}
    found = await ask(client, **body, logprob_start_len=0, top_logprobs_num=1)
    meta = found["meta_info"]
    assert meta["input_token_logprobs"] == [[None, 5, None], [-1.5, 6, None], [-1.5, 7, None]]
    assert meta["input_top_logprobs"] == [None, [[-0.75, 7, None]], [[-0.75, 8, None]]]
    # nothing was to be generated, and nothing is shown
    assert (found["text"], found["output_ids"], meta["completion_tokens"]) == ("", [], 0)
    assert (meta["output_token_logprobs"], meta["finish_reason"]) == ([], {"type": "length", "length": 0})
    meta = (await ask(client, **body, logprob_start_len=1))["meta_info"]
    assert meta["input_token_logprobs"] == [[None, 6, None], [-1.5, 7, None]]
    meta = (await ask(client, **body, logprob_start_len=9))["meta_info"]
    assert meta["input_token_logprobs"] == []


async def test_a_stream_tells_all_so_far(client):
    found = await events(client, text="x", sampling_params=short(3), return_logprob=True, rid="s")
    assert [one["text"] for one in found if one["meta_info"]["finish_reason"] is None] == ["a", "ab", "abc"]
    assert [len(one["meta_info"]["output_token_logprobs"]) for one in found] == [1, 2, 3, 3]
    last = found[-1]
    assert (last["text"], last["output_ids"]) == ("abc", [97, 98, 99])
    assert last["meta_info"]["finish_reason"] == {"type": "length", "length": 3}
    assert "e2e_latency" in last["meta_info"] and "e2e_latency" not in found[0]["meta_info"]
    assert "index" not in last and {one["meta_info"]["id"] for one in found} == {"s"}


async def test_a_stream_of_several_says_which(client):
    found = await events(client, text=["x", "y"], sampling_params=short(2, n=2))
    ended = {one["index"]: one["text"] for one in found if one["meta_info"]["finish_reason"]}
    assert ended == {0: "ab", 1: "bc", 2: "ab", 3: "bc"}
    texts = [one["text"] for one in found if one["index"] == 1]
    assert texts == ["b", "bc", "bc"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "$.text"),
        ({"text": "x", "input_ids": [1]}, "$.text"),
        ({"text": 5}, "$.text"),
        ({"text": []}, "$.text"),
        ({"text": [1]}, "$.text"),
        ({"input_ids": "x"}, "$.input_ids"),
        ({"input_ids": []}, "$.input_ids"),
        ({"input_ids": [[1], []]}, "$.input_ids[1]"),
        ({"input_ids": [1, -1]}, "$.input_ids[1]"),
        ({"input_ids": [9999]}, "$.input_ids"),
        ({"input_ids": [[1], [9999]]}, "$.input_ids[1]"),
        ({"text": "x", "sampling_params": 5}, "$.sampling_params"),
        ({"text": "x", "sampling_params": {"temperature": -1}}, "$.sampling_params.temperature"),
        ({"text": "x", "sampling_params": {"max_new_tokens": "5"}}, "$.sampling_params.max_new_tokens"),
        ({"text": "x", "sampling_params": {"n": 0}}, "$.sampling_params.n"),
        (
            {"text": "x", "sampling_params": {"max_new_tokens": 2, "min_new_tokens": 3}},
            "$.sampling_params.min_new_tokens",
        ),
        ({"text": ["x", "y"], "sampling_params": [{}]}, "$.sampling_params"),
        ({"text": ["x", "y"], "sampling_params": [{}, {"top_p": 2}]}, "$.sampling_params[1].top_p"),
        ({"text": ["x", "y"], "sampling_params": [{}, {"n": 2}]}, "$.sampling_params[1].n"),
        ({"text": "x", "sampling_params": {"regex": "a", "ebnf": "b"}}, "$.sampling_params.ebnf"),
        ({"text": "x", "sampling_params": {"regex": "("}}, "$.sampling_params.regex"),
        ({"text": "x", "sampling_params": {"json_schema": "{"}}, "$.sampling_params.json_schema"),
        ({"text": ["x", "y"], "rid": ["a"]}, "$.rid"),
        ({"text": ["x", "y", "z"], "rid": ["a", "b", "a"]}, "$.rid[2]"),
        ({"text": "x", "rid": "no spaces"}, "$.rid"),
        ({"text": "x", "return_logprob": True, "logprob_start_len": -2}, "$.logprob_start_len"),
        ({"text": "x", "return_logprob": True, "top_logprobs_num": 9999}, "$.top_logprobs_num"),
        ({"text": ["x"] * 1025}, "$.text"),
        ({"text": ["x"] * 1000, "sampling_params": {"n": 2}}, "$.sampling_params.n"),
    ],
)
async def test_what_cannot_be_asked(client, body, param):
    answer = await client.post("/generate", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["message"]
    assert "structured_outputs" not in error["message"]


@pytest.mark.parametrize(
    "field",
    [
        {"image_data": "http://x/y.png"},
        {"lora_path": ["adapter"]},
        {"return_hidden_states": True},
        {"session_params": {"id": "x"}},
        {"custom_logit_processor": "..."},
        {"sampling_params": {"stop_regex": "a+"}},
        {"sampling_params": {"custom_params": {"a": 1}}},
    ],
)
async def test_what_is_refused_by_name(client, field):
    answer = await client.post("/generate", json={"text": "x"} | field)
    (name,) = field
    path = f"$.{name}" if name != "sampling_params" else f"$.{name}.{next(iter(field[name]))}"
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, path)
    assert answer.json()["error"]["code"] == "unsupported_value"


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ([7, 97], [[7, 97], [7, 97]]),
        ([[7], [97, 8]], [[7], [97, 8]]),
        ([None, [8]], [[], [8]]),
    ],
)
async def test_scores_of_tokens_by_name(client, llm, asked, named):
    found = await ask(
        client,
        text=["x", "y"],
        sampling_params=short(2),
        return_logprob=True,
        return_text_in_logprobs=True,
        token_ids_logprob=asked,
    )
    assert [list(request.params.logprob_token_ids) for request in llm.requests] == named
    for one, ids in zip(found, named, strict=True):
        meta = one["meta_info"]
        assert "output_top_logprobs" not in meta
        if ids:
            shown = [
                [[-1.5 if token == chosen else llm.named_logprob(token), token, chr(token)] for token in ids]
                for chosen in (97, 98)
            ]
            assert (meta["input_token_ids_logprobs"], meta["output_token_ids_logprobs"]) == ([], shown)
        else:
            assert "output_token_ids_logprobs" not in meta


async def test_scores_of_tokens_by_name_in_the_prompt(client, llm):
    body = {"input_ids": [5, 6, 7], "sampling_params": short(0), "return_logprob": True, "token_ids_logprob": [9, 6]}
    meta = (await ask(client, **body, logprob_start_len=0))["meta_info"]
    nine, six = [llm.named_logprob(9), 9, None], [llm.named_logprob(6), 6, None]
    assert meta["input_token_ids_logprobs"] == [None, [nine, [-1.5, 6, None]], [nine, six]]
    assert meta["output_token_ids_logprobs"] == [[nine, six]]
    meta = (await ask(client, **body))["meta_info"]
    assert (meta["input_token_ids_logprobs"], meta["output_token_ids_logprobs"]) == ([], [[nine, six]])


@pytest.mark.parametrize(
    "body",
    [
        {"token_ids_logprob": [5]},
        {"token_ids_logprob": [9999], "return_logprob": True},
        {"token_ids_logprob": [[5], [6]], "return_logprob": True},
        {"token_ids_logprob": [*range(129)], "return_logprob": True},
        {"token_ids_logprob": [[-1]], "return_logprob": True},
        {"token_ids_logprob": "5", "return_logprob": True},
    ],
)
async def test_names_that_cannot_be_scored(client, llm, body):
    answer = await client.post("/generate", json={"text": "x"} | body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"].startswith("$.token_ids_logprob"), error
    assert not llm.requests


async def test_what_is_harmless_is_taken(client):
    await ask(client, text=["x"], lora_path=[None], image_data=None, return_hidden_states=False, routed_dp_rank=0)


async def test_errors_of_the_engine_name_the_field(client, llm):
    llm.refuses = PromptTooLong("Too long.", param="$.max_tokens")
    answer = await client.post("/generate", json={"text": "x", "stream": True})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "$.sampling_params.max_new_tokens")
    assert not llm.streams


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("$.structured_outputs.json.properties.a", "$.sampling_params.json_schema.properties.a"),
        ("$.structured_outputs.grammar", "$.sampling_params.ebnf"),
        ("$.stop_token_ids", "$.sampling_params.stop_token_ids"),
        ("$.prompt_logprobs", "$.top_logprobs_num"),
    ],
)
async def test_paths(client, llm, ours, theirs):
    llm.refuses = InvalidRequest("No.", param=ours)
    assert (await client.post("/generate", json={"text": "x"})).json()["error"]["param"] == theirs


async def test_ending_one(client, llm):
    llm.close_gate()
    task = asyncio.ensure_future(client.post("/generate", json={"text": ["x", "y"], "rid": "r"}))
    while len(llm.streams) < 2:
        await asyncio.sleep(0)
    llm.release(4)
    await client.post("/abort_request", json={"rid": "r_1"})
    llm.release(200)
    reasons = [one["meta_info"]["finish_reason"]["type"] for one in (await task).json()]
    assert reasons == ["length", "abort"]


async def test_information(client, llm):
    info = (await client.get("/get_model_info")).json()
    assert info == (await client.get("/model_info")).json()
    assert (info["model_path"], info["is_generation"], info["weight_version"]) == ("org/fake", True, "default")
    assert info["preferred_sampling_params"] == {"temperature": 0.5}
    told = (await client.get("/get_server_info")).json()
    assert told["internal_states"][0]["max_total_num_tokens"] == told["max_total_num_tokens"] == 512
    assert (told["page_size"], told["context_length"], told["disable_radix_cache"]) == (16, 64, False)
    assert told["max_running_requests"] == told["max_num_seqs"]
    assert (told["tp_size"], told["pp_size"], told["dp_size"]) == (1, 1, 1)
    load = (await client.get("/v1/loads")).json()
    assert (load["dp_rank_count"], load["loads"][0]["num_running_reqs"]) == (1, 0)


async def test_health_by_generating(client, llm, sampled):
    assert (await client.get("/health_generate")).status_code == 200
    assert (sampled().max_tokens, sampled().temperature) == (1, 0.0)
    assert not llm.streams
    llm.refuses = RuntimeError("no")
    assert (await client.get("/health_generate")).status_code == 500
    llm.refuses = None
    await client.post("/pause")
    assert (await client.get("/health_generate")).status_code == 503
    await client.post("/sleep")
    assert (await client.get("/health_generate")).json()["error"]["code"] == "asleep"


async def test_a_busy_engine_is_not_asked_for_more(client, llm):
    llm.close_gate()
    task = asyncio.ensure_future(client.post("/generate", json={"text": "x", "sampling_params": short(5)}))
    await llm.submitted.wait()
    health = asyncio.ensure_future(client.get("/health_generate"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not health.done()
    llm.release()
    assert (await health).status_code == 200
    assert len(llm.requests) == 1
    llm.release(10)
    await task


async def test_flushing(client, llm):
    assert (await client.get("/flush_cache")).text.startswith("Cache flushed")
    assert (await client.post("/flush_cache", json={"empty_cache": True})).status_code == 200
    llm.close_gate()
    task = asyncio.ensure_future(client.post("/generate", json={"text": "x"}))
    await llm.submitted.wait()
    assert (await client.post("/flush_cache")).status_code == 400
    llm.release(100)
    await task
    assert (await client.get("/flush_cache", headers={"sec-fetch-site": "cross-site"})).status_code == 403


async def test_pausing(client, llm):
    assert (await client.post("/pause_generation")).json()["status"] == "ok"
    assert (await client.post("/pause_generation", json={"mode": "in_place"})).status_code == 200
    assert (await client.post("/pause_generation", json={"mode": "never"})).status_code == 400
    assert (await client.post("/continue_generation")).json()["status"] == "ok"
    assert all(not order.clear for order in llm.orders if isinstance(order, Pause))
    assert not llm.control.is_paused


CALL = 'Well. <tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


async def test_reading_calls(client):
    body = {"text": CALL, "tools": [ADD], "tool_call_parser": "qwen25"}
    parsed = (await client.post("/parse_function_call", json=body)).json()
    assert parsed["normal_text"].strip() == "Well."
    (call,) = parsed["calls"]
    assert (call["tool_index"], call["name"], json.loads(call["parameters"])) == (0, "add", {"a": 1})
    refused = await client.post("/parse_function_call", json=body | {"tool_call_parser": "nonsense"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "$.tool_call_parser")
    assert "tool_call_parser is 'nonsense'" in refused.json()["error"]["message"]
    refused = await client.post("/parse_function_call", json=body | {"tool_call_parser": "none"})
    assert refused.status_code == 400


async def test_reading_reasoning(client):
    body = {"text": "<think>hm</think>yes", "reasoning_parser": "qwen3"}
    parsed = (await client.post("/separate_reasoning", json=body)).json()
    assert parsed == {"reasoning_text": "hm", "text": "yes"}
    body = {"text": "hm</think>yes", "reasoning_parser": "deepseek-r1"}
    assert (await client.post("/separate_reasoning", json=body)).json() == {"reasoning_text": "hm", "text": "yes"}
    refused = await client.post("/separate_reasoning", json={"text": "x", "reasoning_parser": "none"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "$.reasoning_parser")
