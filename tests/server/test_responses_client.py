"""The official client's own reading of responses: its state machine of streams, its helpers, its polls."""

import asyncio
import json

import httpx2
import openai
import pytest

from quire.core.errors import EngineDead

pytestmark = pytest.mark.anyio

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'


@pytest.fixture
async def official(bring_up):
    app = bring_up(reasoning_parser="qwen3")._transport.app
    transport = httpx2.AsyncClient(transport=httpx2.ASGITransport(app))
    async with openai.AsyncOpenAI(
        base_url="http://localhost/v1", api_key="none", max_retries=0, http_client=transport
    ) as client:
        yield client


async def test_create_retrieve_delete(official, llm):
    llm.says = "<think>\nhm\n</think>\n\nHi!"
    answer = await official.responses.create(model="fake", input="hi", instructions="be kind")
    assert answer.output_text == "Hi!" and answer.usage.output_tokens_details.reasoning_tokens > 0
    assert (await official.responses.retrieve(answer.id)).to_dict() == answer.to_dict()
    items = [item async for item in official.responses.input_items.list(answer.id)]
    assert items[0].content[0].text == "hi"
    await official.responses.delete(answer.id)
    with pytest.raises(openai.NotFoundError):
        await official.responses.retrieve(answer.id)
    count = await official.responses.input_tokens.count(model="fake", input="hi")
    assert count.input_tokens == 7


async def test_its_stream_helper_follows_every_event(official, llm):
    llm.says = "<think>\nhm\n</think>\n\nLook." + CALL
    async with official.responses.stream(
        model="fake", input="hi", tools=[WEATHER], include=["message.output_text.logprobs"], top_logprobs=1
    ) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    reasoning, message, call = final.output
    assert (reasoning.content[0].text, message.content[0].text) == ("hm", "Look.")
    assert json.loads(call.arguments) == {"city": "Köln"} and call.status == "completed"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "wet"}
    llm.says = "Wet."
    again = await official.responses.create(model="fake", previous_response_id=final.id, input=[result])
    assert again.output_text == "Wet."
    replayed = [{"role": "user", "content": "hi"}, *(item.to_dict() for item in final.output), result]
    again = await official.responses.create(model="fake", input=replayed, store=False)
    assert again.output_text == "Wet."


@pytest.mark.parametrize("says", ["", CALL + CALL, "text", "<think>only"])
async def test_its_stream_helper_ends(official, llm, says):
    llm.says = says
    async with official.responses.stream(model="fake", input="hi", tools=[WEATHER]) as stream:
        final = await stream.get_final_response()
    assert final.status == "completed"


async def test_a_failing_stream(official, llm):
    llm.breaks = EngineDead("The engine ended.")
    events = [event async for event in await official.responses.create(model="fake", input="hi", stream=True)]
    assert events[-1].type == "response.failed" and events[-1].response.error.message == "The engine ended."


async def test_in_the_background(official, llm):
    llm.says = "done"
    answer = await official.responses.create(model="fake", input="hi", background=True)
    while answer.status in ("queued", "in_progress"):
        await asyncio.sleep(0)  # nothing else in this loop would wait
        answer = await official.responses.retrieve(answer.id)
    assert (answer.status, answer.output_text) == ("completed", "done")
    assert (await official.responses.cancel(answer.id)).status == "completed"
    events = [
        event async for event in await official.responses.create(model="fake", input="hi", background=True, stream=True)
    ]
    id = events[0].response.id
    again = [e async for e in await official.responses.retrieve(id, stream=True, starting_after=3)]
    assert [event.to_dict() for event in again] == [event.to_dict() for event in events[4:]]
    async with official.responses.stream(response_id=id, starting_after=3) as stream:
        assert (await stream.get_final_response()).output_text == "done"
