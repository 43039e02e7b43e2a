"""SageMaker's /invocations."""

import pytest

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}, "choices"),
        ({"prompt": "x", "max_tokens": 2, "model": "fake"}, "choices"),
        ({"text": "x", "sampling_params": {"max_new_tokens": 2}}, "meta_info"),
        ({"input_ids": [1, 2], "sampling_params": {"max_new_tokens": 2}}, "meta_info"),
    ],
)
async def test_invocations_go_where_the_body_belongs(client, body, key):
    answer = await client.post("/invocations", json=body)
    assert answer.status_code == 200 and key in answer.json()
    streamed = await client.post("/invocations", json=body | {"stream": True})
    assert streamed.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("body", [{}, {"model": "fake"}, {"prompt": None, "messages": None}])
async def test_invocations_of_nothing(client, body):
    answer = await client.post("/invocations", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "$")
    assert (await client.post("/invocations", content=b"{}")).status_code == 415


async def test_invocations_need_the_key(bring_up):
    async with bring_up(api_key=["k"]) as client:
        assert (await client.post("/invocations", json={"prompt": "x"})).status_code == 401
