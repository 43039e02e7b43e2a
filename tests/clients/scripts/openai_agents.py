"""The Agents SDK over responses and over chats: runs, streams, tools, handing over, output types, errors."""

import asyncio
import sys
from typing import Literal

import openai
from agents import (
    Agent,
    MaxTurnsExceeded,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
    handoff,
    set_tracing_disabled,
)
from agents.models.interface import Model
from pydantic import BaseModel, Field

set_tracing_disabled(True)
client = openai.AsyncOpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0)
HI = "What is the capital of France?"
COLD = ModelSettings(temperature=0, max_tokens=100)


class City(BaseModel):
    city: str = Field(max_length=20)
    country: Literal["France", "Italy"]


async def conversation(model: Model) -> None:
    agent = Agent("guide", instructions="Be brief.", model=model, model_settings=COLD)
    answer = await Runner.run(agent, HI)
    usage = answer.context_wrapper.usage
    assert "Paris" in answer.final_output and usage.output_tokens > 1 and usage.requests == 1, answer
    streamed = Runner.run_streamed(agent, HI)
    raw = [event.data async for event in streamed.stream_events() if event.type == "raw_response_event"]
    text = "".join(event.delta for event in raw if event.type == "response.output_text.delta")
    assert text == streamed.final_output == answer.final_output, text

    session = SQLiteSession("one")
    await Runner.run(agent, HI, session=session)
    again = await Runner.run(agent, "And of Italy?", session=session)
    assert again.raw_responses[0].usage.input_tokens > usage.input_tokens, again.raw_responses
    assert len(await session.get_items()) == 4

    made = await Runner.run(Agent("guide", model=model, model_settings=COLD, output_type=City), HI)
    assert made.final_output.country == "France", made


async def tools(model: Model) -> None:
    asked = []

    @function_tool
    def weather(city: Literal["Paris", "Rome"]) -> str:
        """The weather of a city."""
        asked.append(city)
        return "Sunny, 20 degrees"

    must = ModelSettings(temperature=0, max_tokens=100, tool_choice="required", parallel_tool_calls=False)
    agent = Agent("guide", model=model, model_settings=must, tools=[weather])
    answer = await Runner.run(agent, "What is the weather in Paris?")
    kinds = [item.type for item in answer.new_items]
    assert asked and kinds[:2] == ["tool_call_item", "tool_call_output_item"] and answer.final_output, kinds
    streamed = Runner.run_streamed(agent, "What is the weather in Paris?")
    names = [event.name async for event in streamed.stream_events() if event.type == "run_item_stream_event"]
    assert names[:2] == ["tool_called", "tool_output"] and len(asked) == 2, names

    stops = Agent("guide", model=model, model_settings=must, tools=[weather], tool_use_behavior="stop_on_first_tool")
    assert (await Runner.run(stops, "What is the weather in Paris?")).final_output == "Sunny, 20 degrees"
    # Kept from calling something else than a tool, it never ends.
    always = Agent("guide", model=model, model_settings=must, tools=[weather], reset_tool_choice=False)
    try:
        await Runner.run(always, "What is the weather in Paris?", max_turns=2)
    except MaxTurnsExceeded:
        pass
    else:
        raise AssertionError("it ended without a call")

    poet = Agent("poet", model=model, model_settings=COLD)
    desk = Agent("desk", model=model, model_settings=must, handoffs=[handoff(poet)])
    handed = await Runner.run(desk, "Hello")
    assert handed.last_agent is poet and handed.final_output, handed


async def main() -> None:
    name = (await client.models.list()).data[0].id
    for model in (OpenAIResponsesModel(name, client), OpenAIChatCompletionsModel(name, client)):
        await conversation(model)
        await tools(model)
        try:
            await Runner.run(Agent("guide", model=model, model_settings=ModelSettings(temperature=9)), HI)
        except openai.BadRequestError as error:
            assert "temperature" in error.body["message"], error
        else:
            raise AssertionError("not refused")


asyncio.run(main())
print("ok")
