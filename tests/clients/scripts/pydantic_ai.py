"""pydantic-ai's agents, by its providers for OpenAI, vLLM and Ollama: tools, types of output, streams, errors."""

import asyncio
import sys
from typing import Literal

import openai
from pydantic import BaseModel, Field
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, PromptedOutput, RunContext, ToolDefinition, ToolOutput
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.ollama import OllamaProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.providers.vllm import VLLMProvider

URL = f"{sys.argv[1]}/v1"
NAME = openai.OpenAI(base_url=URL, api_key="none").models.list().data[0].id
HI = "What is the capital of France?"
COLD = {"temperature": 0, "max_tokens": 100}


class City(BaseModel):
    city: str = Field(max_length=20)
    country: Literal["France", "Italy"]


async def conversation(model: Model) -> None:
    agent = Agent(model, model_settings=COLD)
    answer = await agent.run(HI)
    assert "Paris" in answer.output and answer.usage.output_tokens > 1, answer
    async with agent.run_stream(HI) as stream:
        parts = [part async for part in stream.stream_text(delta=True, debounce_by=None)]
    assert "".join(parts) == answer.output and len(parts) > 1, parts
    again = await agent.run("And of Italy?", message_history=answer.all_messages())
    assert again.usage.input_tokens > answer.usage.input_tokens, again.usage

    for kind in (ToolOutput(City), NativeOutput(City)):
        made = await Agent(model, output_type=kind, model_settings=COLD, retries=2).run(HI)
        assert isinstance(made.output, City) and made.output.country == "France", made
    async with Agent(model, output_type=NativeOutput(City), model_settings=COLD).run_stream(HI) as stream:
        assert [part async for part in stream.stream_output()][-1].country == "France"
    chosen = await Agent(model, output_type=ToolOutput(Literal["Rome", "Paris"]), model_settings=COLD).run(HI)
    assert chosen.output in ("Rome", "Paris"), chosen


async def tools(model: Model) -> None:
    asked = []

    async def once(ctx: RunContext, tool: ToolDefinition) -> ToolDefinition | None:
        """Shown until it was called; then only the output is left to be given, which is a tool too."""
        return None if asked else tool

    agent = Agent(model, output_type=ToolOutput(City), model_settings=COLD | {"parallel_tool_calls": False})

    @agent.tool_plain(prepare=once)
    def capital(country: Literal["France", "Italy"]) -> str:
        """The capital of a country."""
        asked.append(country)
        return "Paris"

    answer = await agent.run("Call capital with country France.")
    assert asked and isinstance(answer.output, City) and answer.usage.requests == 2, (asked, answer)
    parts = [part for message in answer.all_messages() for part in message.parts]
    (call, *_) = [part for part in parts if part.part_kind == "tool-call"]
    (result, *_) = [part for part in parts if part.part_kind == "tool-return"]
    assert call.tool_name == "capital" and call.tool_call_id == result.tool_call_id, parts


async def errors(model: Model) -> None:
    try:
        await Agent(model, model_settings={"temperature": 9}).run(HI)
    except ModelHTTPError as error:
        assert error.status_code == 400 and "temperature" in error.body["message"], error
    else:
        raise AssertionError("not refused")


async def main() -> None:
    local = OpenAIProvider(base_url=URL, api_key="none")
    for model in (OpenAIChatModel(NAME, provider=local), OpenAIResponsesModel(NAME, provider=local)):
        await conversation(model)
        await tools(model)
        await errors(model)
    for provider in (VLLMProvider(base_url=URL), OllamaProvider(base_url=URL)):
        await conversation(OpenAIChatModel(NAME, provider=provider))
    prompted = OpenAIChatModel(NAME, provider=local, profile={"supports_json_object_output": True})
    asked = 'Paris is in France. Fill in: {"city": "...", "country": "..."}'
    made = await Agent(prompted, output_type=PromptedOutput(City), model_settings=COLD).run(asked)
    assert made.output.country == "France", made
    scored = Agent(OpenAIChatModel(NAME, provider=local), model_settings=COLD | {"openai_logprobs": True})
    assert (await scored.run(HI)).response.provider_details["logprobs"]


asyncio.run(main())
print("ok")
