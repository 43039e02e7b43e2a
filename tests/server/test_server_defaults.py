"""What the server's flags ask for in the place of requests."""

import json

import pytest

pytestmark = pytest.mark.anyio

CHAT, COMPLETIONS, BATCH = "/v1/chat/completions", "/v1/completions", "/v1/chat/completions/batch"
HI = [{"role": "user", "content": "hi"}]
BODIES = {CHAT: {"messages": HI}, COMPLETIONS: {"prompt": "hi"}}


def chunks(answer):
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("options", [None, {"include_usage": False}])
async def test_usage_in_every_stream(bring_up, path, options):
    body = BODIES[path] | {"max_tokens": 2, "stream": True, "stream_options": options}
    async with bring_up(enable_force_include_usage=True) as client:
        told = [chunk["usage"]["completion_tokens"] for chunk in chunks(await client.post(path, json=body))]
        whole = await client.post(path, json=BODIES[path])
    assert told[-1] == 2 and told == sorted(told)
    assert whole.status_code == 200


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, BATCH])
@pytest.mark.parametrize("asked", [None, True, False])
async def test_tokens_as_ids(bring_up, path, asked):
    body = {"prompt": "hi"} if path is COMPLETIONS else {"messages": [HI] if path is BATCH else HI}
    body |= {"max_tokens": 1, "logprobs": 1 if path is COMPLETIONS else True, "return_tokens_as_token_ids": asked}
    async with bring_up(return_tokens_as_token_ids=True) as client:
        logprobs = (await client.post(path, json=body)).json()["choices"][0]["logprobs"]
    tokens = logprobs["tokens"] if path is COMPLETIONS else [one["token"] for one in logprobs["content"]]
    assert tokens == (["a"] if asked is False else ["token_id:97"])


@pytest.mark.parametrize("path", BODIES)
async def test_how_long_it_took(bring_up, path):
    async with bring_up(enable_per_request_metrics=True) as client:

        async def told(**extra):
            return (await client.post(path, json=BODIES[path] | {"max_tokens": 3} | extra)).json().get("metrics")

        three, one, two_replies = await told(), await told(max_tokens=1), await told(n=2)
        streamed = BODIES[path] | {"max_tokens": 3, "stream": True, "stream_options": {"include_usage": True}}
        *others, last = chunks(await client.post(path, json=streamed))
    always = {"time_to_first_token_ms", "generation_time_ms", "queue_time_ms", "tokens_per_second"}
    assert set(three) == set(last["metrics"]) == always | {"mean_itl_ms"}
    assert three["mean_itl_ms"] == pytest.approx(three["generation_time_ms"] / 2)
    assert all(value >= 0 for value in three.values())
    assert set(one) == always, "there is no time between the tokens of one"
    assert two_replies is None, "they share a prompt, and each took its own time"
    assert last["choices"] == [] and not any("metrics" in chunk for chunk in others)


async def test_many_prompts_have_no_time_of_their_own(bring_up):
    async with bring_up(enable_per_request_metrics=True) as client:
        completions = (await client.post(COMPLETIONS, json={"prompt": ["a", "b"]})).json()
        batch = (await client.post(BATCH, json={"messages": [HI, HI], "max_tokens": 2})).json()
    assert len(completions["choices"]) == len(batch["choices"]) == 2
    assert "metrics" not in completions and "metrics" not in batch
