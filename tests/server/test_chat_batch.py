"""Many conversations in one request, as vLLM's clients send them."""

import pytest

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions/batch"


def talk(text):
    return [{"role": "user", "content": text}]


async def test_choices_come_in_the_order_of_conversations(client, llm):
    body = {"messages": [talk("a"), talk("bcd")], "max_tokens": 2, "logprobs": True, "return_token_ids": True}
    answer = (await client.post(PATH, json=body, headers={"x-request-id": "r"})).json()
    assert (answer["id"], answer["object"]) == ("chatcmpl-r", "chat.completion")
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert all(choice["message"]["content"] == "ab" for choice in answer["choices"])
    assert all(len(choice["logprobs"]["content"]) == len(choice["token_ids"]) == 2 for choice in answer["choices"])
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (6 + 8, 4)
    assert [request.request_id for request in llm.requests] == ["r-0", "r-1"]
    assert not llm.streams


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"messages": []}, "$.messages"),
        ({"messages": talk("a")}, "$.messages[0]"),
        ({"messages": [talk("a"), []]}, "$.messages[1]"),
        ({"messages": [talk("a"), talk(3)]}, "$.messages[1][0].content"),
        ({"messages": [talk("a"), talk("x" * 70)]}, "$.messages[1]"),
        ({"messages": [talk("a")] * 1025}, "$.messages"),
        ({"stream": True}, "$.stream"),
        ({"n": 2}, "$.n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "$.tools"),
        ({"use_beam_search": True}, "$.use_beam_search"),
        ({"prompt_logprobs": 1}, "$.prompt_logprobs"),
        ({"timings_per_token": True}, "$.timings_per_token"),
        ({"temperature": 3}, "$.temperature"),
    ],
)
async def test_what_is_wrong_is_named(client, llm, wrong, param):
    answer = await client.post(PATH, json={"messages": [talk("a")], **wrong})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert not llm.streams
