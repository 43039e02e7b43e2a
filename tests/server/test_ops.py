"""Operations: load, information, ending requests, pausing, sleeping; and who may order them."""

import asyncio

import pytest

from quire.core.messages import Pause, Reset, Resume, Sleep, WakeUp

pytestmark = pytest.mark.anyio

LONG = {"model": "fake", "prompt": "x", "max_tokens": 40}
ORDERS = ("/reset_prefix_cache", "/abort_request", "/abort_requests", "/pause", "/resume", "/sleep", "/wake_up")


async def running(client, llm, **fields):
    """A request that is in the engine and waits for its tokens."""
    llm.close_gate()
    llm.submitted.clear()
    task = asyncio.ensure_future(client.post("/v1/completions", json=LONG | fields))
    await llm.submitted.wait()
    return task


async def test_load(client, llm):
    assert (await client.get("/load")).json() == {"server_load": 0, "num_running": 0, "num_waiting": 0}
    task = await running(client, llm)
    assert (await client.get("/load")).json()["server_load"] == 1
    llm.release(40)
    assert (await task).status_code == 200
    assert (await client.get("/load")).json()["server_load"] == 0


@pytest.mark.parametrize(
    ("path", "body", "ended"),
    [
        ("/abort_requests", {"request_ids": ["mine"]}, 1),
        ("/abort_requests", {"request_ids": "cmpl-mine"}, 1),
        ("/abort_requests", {"request_ids": ["other", "mine", "cmpl-mine"]}, 1),
        ("/abort_requests", {"request_ids": ["other"]}, 0),
        ("/abort_requests", {}, 1),
        ("/abort_requests", None, 1),
        ("/abort_request", {"rid": "mine"}, 1),
        ("/abort_request", {"rid": "other"}, 0),
        ("/abort_request", {"abort_all": True}, 1),
        ("/abort_request", {"rid": "other", "abort_all": True}, 1),
    ],
)
async def test_ending_requests(client, llm, path, body, ended):
    task = await running(client, llm, request_id="mine")
    answer = await client.post(path, json=body) if body is not None else await client.post(path)
    assert answer.json() == {"aborted": ended, "status": "aborted"}
    llm.release(40)
    reason = "abort" if ended else "length"
    assert (await task).json()["choices"][0]["finish_reason"] == reason


async def test_ending_one_prompt_of_several(client, llm):
    task = await running(client, llm, request_id="mine", prompt=["x", "y"])
    assert (await client.post("/abort_request", json={"rid": "mine-1"})).json()["aborted"] == 1
    llm.release(40)
    assert [c["finish_reason"] for c in (await task).json()["choices"]] == ["length", "abort"]


async def test_a_request_to_end_must_be_named(client):
    answer = await client.post("/abort_request", json={})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "$.rid"


async def test_pause_and_resume(client, llm):
    assert (await client.get("/is_paused")).json() == {"is_paused": False}
    task = await running(client, llm)
    assert (await client.post("/pause?mode=keep")).json() == {"status": "paused"}
    assert (await client.get("/is_paused")).json() == {"is_paused": True}
    assert (await client.get("/is_sleeping")).json() == {"is_sleeping": False}
    assert (await client.get("/readyz")).status_code == 200
    assert (await client.post("/resume")).json() == {"status": "resumed"}
    llm.release(40)
    assert (await task).json()["choices"][0]["finish_reason"] == "length"
    await client.post("/pause?mode=wait&clear_cache=false")
    await client.post("/pause?wait_for_inflight_requests=true")
    await client.post("/pause")
    sent = [(o.drain, o.clear) for o in llm.orders if isinstance(o, Pause)]
    assert sent == [(False, False), (True, False), (True, True), (False, True)]
    assert isinstance(llm.orders[1], Resume)


async def test_pausing_ends_requests_unless_told_otherwise(client, llm):
    task = await running(client, llm)
    await client.post("/pause")
    assert (await task).json()["choices"][0]["finish_reason"] == "abort"


async def test_sleep_and_wake_up(client, llm):
    assert (await client.post("/sleep?level=2&mode=wait")).json() == {"status": "sleeping", "level": 2}
    assert (await client.get("/is_sleeping")).json() == {"is_sleeping": True}
    refused = await client.post("/v1/completions", json=LONG)
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "10"
    assert refused.json()["error"]["code"] == "asleep" and "/wake_up" in refused.json()["error"]["message"]
    statuses = {path: (await client.get(path)).status_code for path in ("/health", "/ping", "/livez", "/readyz")}
    assert statuses == {"/health": 200, "/ping": 200, "/livez": 200, "/readyz": 503}
    metrics = (await client.get("/metrics")).text
    assert 'vllm:engine_sleep_state{engine="0",model_name="fake",sleep_state="discard_all"} 1.0' in metrics
    assert (await client.post("/resume")).status_code == 409
    partly = {"status": "sleeping", "tags": ["weights"]}
    assert (await client.post("/wake_up?tags=weights")).json() == partly
    wholly = {"status": "awake", "tags": ["kv_cache", "scheduling"]}
    assert (await client.post("/wake_up?tags=kv_cache&tags=scheduling")).json() == wholly
    assert (await client.post("/wake_up")).json() == {"status": "awake", "tags": None}
    assert (await client.get("/readyz")).status_code == 200
    assert (await client.post("/v1/completions", json=LONG)).status_code == 200
    sleep, _, weights, rest, _ = llm.orders
    assert isinstance(sleep, Sleep) and (sleep.level, sleep.drain) == (2, True)
    assert isinstance(weights, WakeUp) and weights.tags == ["weights"]
    assert rest.tags == ["kv_cache", "scheduling"]


async def test_a_light_sleep_takes_requests(client, llm):
    await client.post("/sleep?level=0")
    assert (await client.get("/is_sleeping")).json() == {"is_sleeping": True}
    assert (await client.get("/readyz")).status_code == 200
    assert (await client.post("/v1/completions", json=LONG)).status_code == 200


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/sleep?level=3", "level"),
        ("/sleep?level=deep", "level"),
        ("/sleep?level=1&level=2", "level"),
        ("/sleep?mode=never", "mode"),
        ("/pause?mode=stop", "mode"),
        ("/pause?clear_cache=perhaps", "clear_cache"),
        ("/wake_up?" + "tags=weights&" * 9, "tags"),
    ],
)
async def test_what_cannot_be_ordered(client, llm, path, param):
    answer = await client.post(path)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert not llm.orders


async def test_reset_of_the_prefix_cache(client, llm):
    assert (await client.post("/reset_prefix_cache")).json() == {"success": True}
    task = await running(client, llm)
    assert (await client.post("/reset_prefix_cache?reset_running_requests=true")).json() == {"success": False}
    assert [o.preempt for o in llm.orders if isinstance(o, Reset)] == [False, True]
    llm.release(40)
    await task


async def test_server_info_tells_no_secrets(bring_up, llm):
    llm.config = type(llm.config).of(model="org/fake", hf_token="hf_secret")
    async with bring_up(api_key=["key_secret"]) as client:
        answer = await client.get("/server_info", headers={"authorization": "Bearer key_secret"})
        assert "secret" not in answer.text
        info = answer.json()
        assert (info["model_path"], info["max_model_len"], info["max_total_num_tokens"]) == ("org/fake", 64, 512)
        assert info["vllm_config"]["model_config"]["model"] == "org/fake"
        assert info["internal_states"][0]["num_running_reqs"] == 0


async def test_tokenizer_info(client):
    info = (await client.get("/tokenizer_info")).json()
    assert (info["eos_token"], info["bos_token"], info["model_max_length"]) == ("<256>", None, 64)
    assert info["chat_template"].startswith("{{") and info["added_tokens_decoder"]["256"]["special"]


async def test_operations_need_the_key(bring_up, llm):
    async with bring_up(api_key=["k"]) as client:
        for path in ORDERS:
            assert (await client.post(path)).status_code == 401, path
        for path in ("/load", "/server_info", "/is_paused", "/is_sleeping", "/tokenizer_info"):
            assert (await client.get(path)).status_code == 401, path
    assert not llm.orders


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://localhost:3000"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
async def test_web_pages_elsewhere_give_no_orders(client, llm, headers):
    for path in ORDERS:
        answer = await client.post(path, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden"), path
    assert not llm.orders
    assert (await client.get("/load", headers=headers)).status_code == 200


async def test_pages_of_allowed_origins_give_orders(bring_up):
    async with bring_up(allowed_origins=["https://ours.example"]) as client:
        for headers in ({"origin": "https://ours.example"}, {"origin": "http://localhost"}, {"sec-fetch-site": "none"}):
            assert (await client.post("/pause", headers=headers)).status_code == 200
