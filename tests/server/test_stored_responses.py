"""Responses that are kept: continued, read again, listed, followed, cancelled, dropped."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.server.response_store import Kept, PreviousResponseNotFound, ResponseNotFound, ResponseStore

pytestmark = pytest.mark.anyio

PATH = "/v1/responses"


@pytest.fixture
def prompt(llm):
    return lambda: bytes(llm.requests[-1].prompt.tolist()).decode()


async def ask(client, **body):
    answer = await client.post(PATH, json={"input": "hi", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def fails(answer, status, code=None):
    found = await answer
    assert found.status_code == status, found.text
    error = found.json()["error"]
    assert code is None or error["code"] == code, error
    return error


async def until_over(client, id):
    while True:
        answer = (await client.get(f"{PATH}/{id}")).json()
        if answer["status"] not in ("queued", "in_progress"):
            return answer
        await asyncio.sleep(0)


def numbers(text):
    return [json.loads(line[6:])["sequence_number"] for line in text.split("\n") if line.startswith("data: ")]


async def test_a_response_is_read_again(client, llm):
    answer = await ask(client, max_output_tokens=2)
    assert (await client.get(f"{PATH}/{answer['id']}")).json() == answer
    await fails(client.get(f"{PATH}/{answer['id']}?stream=true"), 400)
    assert (await client.delete(f"{PATH}/{answer['id']}")).json() == {
        "id": answer["id"],
        "object": "response",
        "deleted": True,
    }
    for gone in (client.get, client.delete):
        await fails(gone(f"{PATH}/{answer['id']}"), 404, "response_not_found")


async def test_what_is_not_stored_is_not_found(client, bring_up):
    answer = await ask(client, store=False)
    assert answer["store"] is False
    await fails(client.get(f"{PATH}/{answer['id']}"), 404)
    body = {"input": "x", "previous_response_id": answer["id"]}
    await fails(client.post(PATH, json=body), 400, "previous_response_not_found")
    async with bring_up(max_stored_responses=0) as other:
        assert (await ask(other))["store"] is False
        error = await fails(other.post(PATH, json={"input": "x", "background": True}), 400)
        assert error["param"] == "$.background"


async def test_a_conversation_goes_on(client, llm, prompt):
    llm.says = "A"
    first = await ask(client, instructions="be", input="a")
    llm.says = "B"
    second = await ask(client, previous_response_id=first["id"], input="b")
    assert prompt() == "u:a|a:A|u:b|a:"  # instructions are not carried over
    assert second["previous_response_id"] == first["id"]
    await ask(client, previous_response_id=second["id"], input="c", instructions="no")
    assert prompt() == "s:no|u:a|a:A|u:b|a:B|u:c|a:"
    await ask(client, previous_response_id=first["id"], input="d")  # another branch
    assert prompt() == "u:a|a:A|u:d|a:"
    await client.delete(f"{PATH}/{first['id']}")
    body = {"input": "x", "previous_response_id": second["id"]}
    error = await fails(client.post(PATH, json=body), 400, "previous_response_not_found")
    assert first["id"] in error["message"]


async def test_a_streamed_response_is_stored_before_its_end_is_told(client, llm):
    answer = await client.post(PATH, json={"input": "hi", "stream": True, "max_output_tokens": 2})
    last = json.loads(answer.text.split("\n\n")[-2].split("data: ")[1])
    assert (await client.get(f"{PATH}/{last['response']['id']}")).json() == last["response"]


async def test_tool_results_find_their_calls_in_the_conversation(bring_up, llm, prompt):
    client = bring_up()
    llm.says = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    first = await ask(client, tools=[{"type": "function", "name": "f"}])
    (call,) = first["output"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "wet"}
    await ask(client, previous_response_id=first["id"], input=[result])
    assert prompt().endswith("t:wet|a:")
    await ask(client, input=[{"type": "item_reference", "id": call["id"]}, result])
    assert prompt() == "a:|t:wet|a:"


async def test_items_are_referred_to(client, llm, prompt):
    llm.says = "A"
    first = await ask(client, input="a")
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    await ask(client, input=[reference, {"role": "user", "content": "b"}])
    assert prompt() == "a:A|u:b|a:"
    await client.delete(f"{PATH}/{first['id']}")
    body = {"input": [reference]}
    assert (await fails(client.post(PATH, json=body), 400))["param"] == "$.input[0].id"


async def test_an_id_that_a_client_chose_finds_nothing(client):
    await ask(client, input=[{"id": "msg_mine", "role": "user", "content": "secret"}])
    await fails(client.post(PATH, json={"input": [{"type": "item_reference", "id": "msg_mine"}]}), 400)


async def test_the_input_is_listed(client, llm):
    llm.says = "A"
    first = await ask(client, input="a")
    items = [{"role": "user", "content": "b"}, {"role": "user", "content": "c"}]
    second = await ask(client, previous_response_id=first["id"], input=items)
    path = f"{PATH}/{second['id']}/input_items"
    whole = (await client.get(path, params={"order": "asc"})).json()
    texts = [item["content"][0]["text"] for item in whole["data"]]
    assert texts == ["a", "A", "b", "c"] and whole["has_more"] is False
    assert {item["type"] for item in whole["data"]} == {"message"}
    assert (whole["first_id"], whole["last_id"]) == (whole["data"][0]["id"], whole["data"][3]["id"])
    page = (await client.get(path, params={"limit": 2})).json()
    assert [item["content"][0]["text"] for item in page["data"]] == ["c", "b"] and page["has_more"] is True
    rest = (await client.get(path, params={"limit": 2, "after": page["last_id"]})).json()
    assert [item["content"][0]["text"] for item in rest["data"]] == ["A", "a"] and rest["has_more"] is False
    for wrong in ({"limit": 0}, {"limit": 101}, {"limit": "x"}, {"order": "up"}):
        await fails(client.get(path, params=wrong), 400)
    await fails(client.get(path, params={"after": "msg_0"}), 404)
    await fails(client.get(f"{PATH}/resp_0/input_items"), 404)


async def test_in_the_background(client, llm):
    llm.close_gate()
    answer = await ask(client, background=True, max_output_tokens=3)
    assert (answer["status"], answer["output"], answer["usage"]) == ("queued", [], None)
    path = f"{PATH}/{answer['id']}"
    await asyncio.sleep(0)
    assert (await client.get(path)).json()["status"] == "in_progress"
    body = {"input": "x", "previous_response_id": answer["id"]}
    await fails(client.post(PATH, json=body), 400)
    listed = (await client.get(f"{path}/input_items")).json()
    assert listed["data"][0]["content"][0]["text"] == "hi"
    await fails(client.get(f"{path}?stream=true"), 400)
    llm.release(3)
    over = await until_over(client, answer["id"])
    assert (over["status"], over["output"][0]["content"][0]["text"]) == ("incomplete", "abc")
    assert over["created_at"] == answer["created_at"] and not client._transport.app.state.service.running


async def test_what_is_wrong_with_a_background_response_is_told_at_once(client):
    await fails(client.post(PATH, json={"input": "x" * 99, "background": True}), 400, "context_length_exceeded")


async def test_a_background_response_is_cancelled(client, llm):
    llm.close_gate()
    answer = await ask(client, background=True)
    path = f"{PATH}/{answer['id']}"
    cancelled = (await client.post(f"{path}/cancel")).json()
    assert cancelled["status"] == "cancelled" and llm.aborted
    assert (await client.get(path)).json() == cancelled
    assert (await client.post(f"{path}/cancel")).json() == cancelled
    await fails(client.post(f"{PATH}/resp_0/cancel"), 404)
    llm._gate = None
    other = await ask(client)
    await fails(client.post(f"{PATH}/{other['id']}/cancel"), 400)


async def test_a_background_response_is_deleted(client, llm):
    llm.close_gate()
    answer = await ask(client, background=True)
    assert (await client.delete(f"{PATH}/{answer['id']}")).status_code == 200
    assert llm.aborted and not client._transport.app.state.service.responses.running
    await fails(client.get(f"{PATH}/{answer['id']}"), 404)


async def test_a_background_stream_is_followed_from_any_event(client, llm):
    llm.says = "abc"
    whole = (await client.post(PATH, json={"input": "hi", "background": True, "stream": True})).text
    assert numbers(whole) == list(range(len(numbers(whole))))
    assert whole.count("event: response.queued\n") == 1
    id = json.loads(whole.split("data: ")[1].split("\n")[0])["response"]["id"]
    again = (await client.get(f"{PATH}/{id}?stream=true")).text
    assert again == whole
    part = (await client.get(f"{PATH}/{id}?stream=true&starting_after=4")).text
    assert numbers(part) == numbers(whole)[5:] and whole.endswith(part)
    for wrong in ("stream=true&starting_after=-1", "stream=true&starting_after=x", "stream=maybe"):
        await fails(client.get(f"{PATH}/{id}?{wrong}"), 400)


async def test_a_background_stream_is_followed_while_it_grows(client, llm):
    llm.close_gate()
    body = {"input": "hi", "background": True, "stream": True, "max_output_tokens": 3}
    first = asyncio.ensure_future(client.post(PATH, json=body))
    await llm.submitted.wait()
    store = client._transport.app.state.service.responses
    while not store.running:
        await asyncio.sleep(0)
    (id,) = store.running
    second = asyncio.ensure_future(client.get(f"{PATH}/{id}?stream=true&starting_after=1"))
    llm.release(3)
    whole, part = (await first).text, (await second).text
    assert whole.endswith(part) and numbers(part)[0] == 2


async def test_a_background_response_that_fails_says_so(client, llm):
    llm.breaks = ValueError("secret")
    answer = await ask(client, background=True)
    over = await until_over(client, answer["id"])
    assert (over["status"], over["error"]["code"]) == ("failed", "server_error")
    assert "secret" not in json.dumps(over)


def kept(id, size=0, previous_id=None):
    return Kept(answer=b"x" * size, input=((f"msg_{id}", b"{}"),), output=(), previous_id=previous_id)


def test_a_long_conversation_keeps_its_beginning():
    store = ResponseStore(3, 10_000)
    store.keep("a", kept("a"))
    store.keep("b", kept("b", previous_id="a"))
    store.keep("other", kept("other"))
    assert len(store.history("b")) == 2
    store.keep("c", kept("c", previous_id="b"))
    assert len(store.history("c")) == 3
    with pytest.raises(ResponseNotFound):
        store.get("other")


def test_a_response_larger_than_all_room_is_not_kept():
    store = ResponseStore(3, 1000)
    store.keep("a", kept("a", 2000))
    assert len(store) == store.num_bytes == 0


@given(st.lists(st.tuples(st.sampled_from("kgdhi"), st.sampled_from("abcdef"), st.integers(0, 900)), max_size=60))
def test_the_store_keeps_its_books(steps):
    """What is kept is within the limits, counted right, and every item that is found belongs to what is kept."""
    store = ResponseStore(4, 2000)
    sizes = {}
    for i, (what, name, size) in enumerate(steps):
        id = f"{name}{i}" if what == "k" else next((k for k in sizes if k.startswith(name)), name)
        try:
            match what:
                case "k":
                    one = kept(id, size, previous_id=next(iter(sizes), None))
                    sizes[id] = one.num_bytes
                    store.keep(id, one)
                case "g":
                    store.get(id)
                case "d":
                    store.delete(id)
                case "h":
                    store.history(id)
                case "i":
                    store.item(f"msg_{id}")
        except (ResponseNotFound, PreviousResponseNotFound):
            pass
        sizes = {id: size for id, size in sizes.items() if store.item(f"msg_{id}") is not None}
        assert len(store) == len(sizes) <= 4
        assert store.num_bytes == sum(sizes.values()) <= 2000
