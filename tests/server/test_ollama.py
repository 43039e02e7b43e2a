"""Ollama's API: answers whole and line by line, options, what is told of models, errors in its own shape."""

import json

import pytest

from quire.core.errors import EngineDead, InvalidRequest, Overloaded
from quire.core.step import FinishReason
from quire.server.foreign_sampling import keep_alive_s

pytestmark = pytest.mark.anyio

HI = [{"role": "user", "content": "hi"}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'


@pytest.fixture
def client(bring_up):
    return bring_up(reasoning_parser="qwen3")


@pytest.fixture
def prompted(llm):
    """The text of the last prompt that reached the engine."""
    return lambda: "".join("" if i > 255 else chr(i) for i in llm.requests[-1].prompt)


async def chat(client, **body):
    return await client.post("/api/chat", json={"model": "fake", "messages": HI, "stream": False, **body})


async def generate(client, **body):
    return await client.post("/api/generate", json={"model": "fake", "prompt": "hi", "stream": False, **body})


async def lines(client, path="/api/chat", **body):
    answer = await client.post(path, json={"model": "fake", "messages": HI, "prompt": "hi", **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_a_conversation_goes_on(client, llm):
    llm.says = "hello"
    answer = (await chat(client)).json()
    assert answer["model"] == "fake" and answer["created_at"].endswith("Z")
    assert answer["message"] == {"role": "assistant", "content": "hello"}
    assert (answer["done"], answer["done_reason"]) == (True, "stop")
    assert (answer["prompt_eval_count"], answer["eval_count"]) == (7, 5)
    durations = {name: answer[name] for name in answer if name.endswith("_duration")}
    assert len(durations) == 4 and all(type(value) is int and value > 0 for value in durations.values())
    assert max(durations, key=durations.get) == "total_duration"


async def test_it_streams_unless_told_otherwise(client, llm):
    llm.says = "hello"
    *said, end = await lines(client)
    assert "".join(line["message"]["content"] for line in said) == "hello"
    assert not any(line["done"] or "eval_count" in line for line in said)
    assert (end["done"], end["done_reason"], end["message"]["content"], end["eval_count"]) == (True, "stop", "", 5)


@pytest.mark.parametrize("says", ["hello", "", "<think>hm</think>yes", "Let me." + CALL, CALL + CALL, CALL + "so"])
async def test_a_stream_put_together_is_the_whole_answer(client, llm, says):
    llm.says = says
    whole = (await chat(client, tools=[WEATHER])).json()["message"]
    messages = [line["message"] for line in await lines(client, tools=[WEATHER])]
    assert "".join(m["content"] for m in messages) == whole["content"]
    assert "".join(m.get("thinking", "") for m in messages) == whole.get("thinking", "")
    calls = [call["function"] for m in messages for call in m.get("tool_calls", [])]
    assert calls == [call["function"] for call in whole.get("tool_calls", [])]


async def test_thinking_and_calls_stand_apart(client, llm):
    llm.says = "<think>hm</think>Let me." + CALL
    answer = (await chat(client, tools=[WEATHER], think=True)).json()
    message = answer["message"]
    (call,) = message["tool_calls"]
    assert (message["thinking"], message["content"], answer["done_reason"]) == ("hm", "Let me.", "stop")
    assert call.pop("id").startswith("call_")
    assert call == {"function": {"index": 0, "name": "weather", "arguments": {"city": "Köln"}}}


async def test_a_call_that_was_cut_off_is_told_as_far_as_it_goes(client, llm):
    llm.says = CALL[:-15]
    for reason, arguments in (
        (FinishReason.LENGTH, {"city": "Köln"}),
        (FinishReason.STOP, {"INVALID_JSON": '{"city": "Köln"'}),
    ):
        llm.ends = reason
        whole, streamed = (await chat(client, tools=[WEATHER])).json(), (await lines(client, tools=[WEATHER]))[-2]
        for answer in (whole, streamed):
            assert answer["message"]["tool_calls"][0]["function"]["arguments"] == arguments


async def test_a_stop_string_cuts_a_call_off_as_a_limit_does(client, llm):
    llm.says, llm.stop_reason = CALL[:-15], "END"
    whole, streamed = (await chat(client, tools=[WEATHER])).json(), (await lines(client, tools=[WEATHER]))[-2]
    for answer in (whole, streamed):
        assert answer["message"]["tool_calls"][0]["function"]["arguments"] == {"city": "Köln"}


async def test_no_tools_are_tools_too(client, llm):
    llm.says = CALL
    answer = (await chat(client, tools=[])).json()
    assert answer["message"]["content"] == CALL and "tool_calls" not in answer["message"]


async def test_history_reaches_the_template(client, llm):
    seen = []
    render = llm.chat_template.render
    llm.chat_template.render = lambda messages, **more: seen.append((messages, more)) or render(messages, **more)
    used = {"function": {"name": "weather", "arguments": {"city": "Köln"}}}
    messages = [
        {"role": "user", "content": "?", "images": []},
        {"role": "assistant", "thinking": "hm", "tool_calls": [used]},
        {"role": "tool", "tool_name": "weather", "content": "rain"},
        {"role": "assistant", "content": "It"},
    ]
    assert (await chat(client, messages=messages)).status_code == 200
    (rendered, settings), *_ = seen
    assert [m["role"] for m in rendered] == ["user", "assistant", "tool", "assistant"]
    assert rendered[1]["reasoning_content"] == "hm"
    assert rendered[1]["tool_calls"][0]["function"]["arguments"] == {"city": "Köln"}
    assert rendered[2]["name"] == "weather"
    assert settings["continue_final_message"] and not settings["add_generation_prompt"]


async def test_prompts_are_answered(client, llm, prompted):
    answer = (await generate(client, system="be", options={"num_predict": 3})).json()
    assert (answer["response"], answer["done_reason"]) == ("abc", "length")
    assert prompted() == "s:be|u:hi|a:"
    assert bytes(answer["context"]).decode() == "s:be|u:hi|a:abc"
    *said, end = await lines(client, "/api/generate", options={"num_predict": 3})
    assert ("".join(line["response"] for line in said), end["response"]) == ("abc", "")
    assert bytes(end["context"]).decode() == "u:hi|a:abc"
    await generate(client, context=end["context"])
    assert prompted() == "u:hi|a:abcu:hi|a:"


async def test_raw_prompts_are_taken_as_they_are(client, llm, prompted):
    llm.says = "<think>x</think>"
    answer = (await generate(client, raw=True)).json()
    assert (prompted(), len(llm.requests[-1].prompt)) == ("hi", 3), "with the token that begins a text"
    assert answer["response"] == llm.says and "context" not in answer and "thinking" not in answer


async def test_the_middle_is_filled_in(client, llm):
    answer = await generate(client, suffix="z")
    assert answer.status_code == 400 and "fill in the middle" in answer.json()["error"]
    llm.tokenizer.named = {"<|fim_prefix|>": 256, "<|fim_suffix|>": 258, "<|fim_middle|>": 259}
    answer = await generate(client, suffix="z", options={"num_predict": 2})
    assert answer.json()["response"] == "ab" and "context" not in answer.json()
    assert llm.requests[-1].prompt.tolist() == [257, 256, 104, 105, 258, 122, 259]
    assert set(llm.requests[-1].params.stop_token_ids) == {256, 258, 259}


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_nothing_asked_is_a_word_that_the_model_is_there(client, llm, path):
    for keep_alive, reason in ((None, "load"), ("5m", "load"), (-1, "load"), (0, "unload"), ("0s", "unload")):
        answer = await client.post(path, json={"model": "fake", "keep_alive": keep_alive})
        assert answer.headers["content-type"] == "application/json"
        told = answer.json()
        assert (told["done"], told["done_reason"]) == (True, reason) and "eval_count" not in told
        assert told["message" if path == "/api/chat" else "response"] in ("", {"role": "assistant", "content": ""})
    assert not llm.requests


async def test_options_reach_the_engine(client, sampled):
    options = {
        "num_predict": 20.0,
        "temperature": 0,
        "top_k": 7,
        "top_p": 0.5,
        "min_p": 0.1,
        "repeat_penalty": 1.2,
        "repeat_last_n": -1,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "seed": 3,
        "stop": ["a", "b"],
        "num_ctx": 64,
        "num_gpu": 99,
        "num_thread": 8,
        "mirostat": 0,
        "numa": False,
    }
    assert (await chat(client, options=options)).status_code == 200
    params = sampled()
    assert (params.max_tokens, params.temperature, params.top_k, params.top_p) == (20, 0, 7, 0.5)
    assert (params.min_p, params.repetition_penalty, params.seed, params.stop) == (0.1, 1.2, 3, ("a", "b"))
    assert (params.presence_penalty, params.frequency_penalty) == (0.1, 0.2)
    assert params.penalty_window == 2**31 - 1, "all tokens"
    await chat(client, options={"repeat_last_n": 10})
    assert sampled().penalty_window == 10


async def test_defaults_are_the_models_own_and_then_ollamas(client, sampled):
    await chat(client)
    params = sampled()
    assert (params.temperature, params.top_k, params.top_p, params.max_tokens) == (0.5, 40, 0.9, None)
    assert (params.repetition_penalty, params.penalty_window) == (1.0, 64)
    await chat(client, options={"num_predict": -2, "top_p": 0, "seed": -1, "repeat_penalty": 1.5, "repeat_last_n": 0})
    params = sampled()
    assert (params.max_tokens, params.seed, params.repetition_penalty) == (None, None, 1.0)
    assert 0 < params.top_p < 1e-6


async def test_shapes_reach_the_engine(client, sampled):
    await chat(client, format="json")
    assert sampled().structured_outputs.json_object
    await generate(client, format={"type": "object"})
    assert sampled().structured_outputs.json == {"type": "object"}
    await chat(client, format="")
    assert sampled().structured_outputs is None


async def test_what_think_tells_the_template(client, llm, prompted):
    llm.chat_template.variables |= {"enable_thinking"}
    await chat(client, think=False)
    assert prompted().endswith("enable_thinking=False")
    for effort in ("high", "max"):
        await generate(client, think=effort)
        assert "reasoning_effort=high" in prompted() and prompted().endswith("enable_thinking=True")


async def test_models_without_reasoning_cannot_be_told_to_think(bring_up):
    async with bring_up(reasoning_parser="none") as client:
        assert (await chat(client, think=False)).status_code == 200
        answer = await chat(client, think=True)
        assert answer.status_code == 400 and "does not support thinking" in answer.json()["error"]


async def test_log_probabilities(client):
    (entry,) = (await generate(client, logprobs=True, options={"num_predict": 1})).json()["logprobs"]
    assert entry == {"token": "a", "logprob": -1.5, "bytes": [97]}
    first, *_ = await lines(client, logprobs=True, top_logprobs=2, options={"num_predict": 2})
    (entry,) = first["logprobs"]
    assert [top["token"] for top in entry["top_logprobs"]] == ["b", "a"]


@pytest.mark.parametrize("name", ["fake", "fake:latest", "FAKE", "also-fake:latest"])
async def test_names_with_and_without_a_tag(client, name):
    answer = await chat(client, model=name, options={"num_predict": 1})
    assert answer.json()["model"] == name
    assert (await client.post("/api/show", json={"model": name})).status_code == 200


async def test_models_are_listed_and_shown(client):
    listed = (await client.get("/api/tags")).json()["models"]
    assert [model["name"] for model in listed] == ["fake:latest", "also-fake:latest"]
    assert listed[0]["details"]["parameter_size"] == "134.52M" and len(listed[0]["digest"]) == 64
    (loaded,) = (await client.get("/api/ps")).json()["models"]
    assert (loaded["name"], loaded["context_length"], loaded["expires_at"][:4]) == ("fake:latest", 64, "2318")
    shown = (await client.post("/api/show", json={"name": "fake"})).json()
    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["model_info"]["llama.context_length"] == 64
    assert shown["model_info"]["llama.embedding_length"] == 576
    assert shown["capabilities"] == ["completion", "tools", "thinking"]
    assert shown["parameters"] == "temperature                    0.5"
    assert "messages" in shown["template"]


async def test_it_says_that_it_is_running(client):
    for method in ("GET", "HEAD"):
        answer = await client.request(method, "/")
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
        assert (await client.request(method, "/api/tags")).status_code == 200
    assert (await client.get("/")).text == "Ollama is running"
    assert (await client.get("/api/version")).json()["version"].count(".") == 2


async def test_a_served_model_need_not_be_fetched(client):
    assert (await client.post("/api/pull", json={"model": "fake"})).text == '{"status":"success"}\n'
    answer = await client.post("/api/pull", json={"model": "fake:latest", "stream": False})
    assert answer.json() == {"status": "success"}
    assert (await client.post("/api/pull", json={"model": "other"})).status_code == 400


@pytest.mark.parametrize("path", ["push", "create", "copy", "delete", "embed", "embeddings"])
async def test_what_cannot_be_done_is_refused(client, path):
    method = "DELETE" if path == "delete" else "POST"
    answer = await client.request(method, f"/api/{path}", json={"model": "fake"})
    assert answer.status_code == 400 and f"/api/{path} is not supported" in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"model": None}, 400, "$.model is missing"),
        ({"model": "other"}, 404, "model 'other' not found"),
        ({"messages": [1]}, 400, "$.messages[0]"),
        ({"messages": [{"role": "x", "content": "y"}]}, 400, "$.messages[0].role"),
        ({"messages": [{**HI[0], "images": ["aGk="]}]}, 400, "$.messages[0].images"),
        ({"format": "xml"}, 400, "$.format"),
        ({"think": "much"}, 400, "$.think"),
        ({"top_logprobs": 21, "logprobs": True}, 400, "$.top_logprobs"),
        ({"top_logprobs": 1}, 400, "$.top_logprobs"),
        ({"keep_alive": "soon"}, 400, "$.keep_alive"),
        ({"tools": [{"type": "function", "function": {}}]}, 400, "$.tools[0].function.name"),
        ({"tool_choice": "required"}, 400, "tools"),
        ({"thread": {}}, 400, "thread is not accepted"),
        ({"options": {"num_ctx": 65}}, 400, "$.options.num_ctx is 65"),
        ({"options": {"num_predict": -3}}, 400, "$.options.num_predict"),
        ({"options": {"num_predict": 0}}, 400, "$.options.num_predict"),
        ({"options": {"temperature": "hot"}}, 400, "$.options.temperature"),
        ({"options": {"top_k": 1.5}}, 400, "$.options.top_k"),
        ({"options": {"mirostat": 1}}, 400, "$.options.mirostat is not accepted"),
        ({"options": {"tfs_z": 0.5}}, 400, "$.options.tfs_z is not accepted"),
        ({"options": {"repeat_last_n": -2}}, 400, "$.options.repeat_last_n is -2"),
        ({"messages": [{"role": "user", "content": "refuse me"}]}, 400, "The template refuses."),
    ],
)
async def test_what_is_wrong_is_named(client, body, status, said):
    answer = await chat(client, **body)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"} and said in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"images": ["aGk="]}, "images is not accepted"),
        ({"template": "{{ .Prompt }}"}, "template is not accepted"),
        ({"raw": True, "system": "be"}, "$.system cannot be combined with raw"),
        ({"raw": True, "context": [1]}, "$.context cannot be combined with raw"),
        ({"context": [-1]}, "$.context[0]"),
        ({"context": [1, 260]}, "$.context[1] is 260"),
        ({"_debug_render_only": True}, "_debug_render_only is not accepted"),
    ],
)
async def test_what_is_wrong_with_a_prompt_is_named(client, body, said):
    answer = await generate(client, **body)
    assert answer.status_code == 400 and said in answer.json()["error"]


async def test_bodies_of_any_type_are_read_but_not_from_web_pages(client):
    body = json.dumps({"model": "fake", "messages": HI, "stream": False})
    form = {"content-type": "application/x-www-form-urlencoded"}  # as curl -d says
    assert (await client.post("/api/chat", content=body, headers=form)).status_code == 200
    answer = await client.post("/api/chat", content=body, headers=form | {"origin": "https://page.example"})
    assert answer.status_code == 415 and set(answer.json()) == {"error"}


async def test_failures_have_the_familys_shape(client, llm):
    for error, status in ((Overloaded("busy"), 503), (EngineDead("gone"), 503), (RuntimeError("ours"), 500)):
        llm.breaks = error
        answer = await chat(client)
        assert answer.status_code == status and set(answer.json()) == {"error"}
        (line,) = await lines(client)
        assert set(line) == {"error"}


async def test_an_answer_that_was_broken_off_says_so(client, llm):
    llm.says = "x"
    llm.ends = FinishReason.ABORT
    assert (await chat(client)).status_code == 503
    *_, last = await lines(client)
    assert "broke the answer off" in last["error"]


async def test_what_never_reaches_a_route_has_the_familys_shape(bring_up):
    async with bring_up(api_key=["right"]) as client:
        key = {"x-api-key": "right"}
        cases = [
            (await client.get("/api/tags"), 401),
            (await client.get("/api/chat", headers=key), 405),
            (await client.get("/api/nothing", headers=key), 404),
            (await client.post("/api/chat", content="{", headers=key), 400),
        ]
    for answer, status in cases:
        assert answer.status_code == status and set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), (5, 5), (-1, -1), ("0", 0), ("300", 300), ("5m", 300), ("1h30m", 5400), ("-1m", -60), ("1.5s", 1.5)],
)
def test_durations(value, seconds):
    assert keep_alive_s(value) == seconds


@pytest.mark.parametrize("value", ["", "m", "5 m", "5x", "1h30", "--1", "9" * 100 + "s"])
def test_durations_that_are_none(value):
    with pytest.raises(InvalidRequest):
        keep_alive_s(value)
