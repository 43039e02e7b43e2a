"""Inspect's evaluations by its providers for OpenAI-like servers, vLLM and Ollama: answers, schemas, scores, tools."""

import sys

import openai
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig, ResponseSchema, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import Tool, tool
from inspect_ai.util import json_schema
from pydantic import BaseModel

URL = f"{sys.argv[1]}/v1"
NAME = openai.OpenAI(base_url=URL, api_key="none").models.list().data[0].id
COLD = GenerateConfig(temperature=0, max_tokens=60, max_retries=0)


class City(BaseModel):
    city: str


@tool
def weather() -> Tool:
    async def execute(city: str) -> str:
        """The weather of a city.

        Args:
            city: the city's name
        """
        return "Sunny"

    return execute


questions = MemoryDataset([Sample(input="What is the capital of France?", target="Paris") for _ in range(4)])
for provider in (f"openai-api/quire/{NAME}", f"vllm/{NAME}", f"ollama/{NAME}"):
    model = get_model(provider, base_url=URL, api_key="none", config=COLD)
    (log,) = eval(Task(dataset=questions, solver=generate(), scorer=includes()), model=model, display="none")
    assert log.status == "success" and log.results.scores[0].metrics["accuracy"].value == 1.0, (provider, log.error)
    (usage,) = log.stats.model_usage.values()
    read = usage.input_tokens + (usage.input_tokens_cache_read or 0)
    assert usage.output_tokens > 4 and usage.total_tokens == read + usage.output_tokens, usage

model = get_model(f"openai-api/quire/{NAME}", base_url=URL, api_key="none", config=COLD)
shaped = COLD.model_copy(update={"response_schema": ResponseSchema(name="city", json_schema=json_schema(City))})
(log,) = eval(Task(dataset=questions, solver=generate(), config=shaped, scorer=includes()), model=model, display="none")
assert City.model_validate_json(log.samples[0].output.completion).city == "Paris", log.samples[0].output
scored = COLD.model_copy(update={"logprobs": True, "top_logprobs": 2})
(log,) = eval(Task(dataset=questions, solver=generate(), config=scored, scorer=includes()), model=model, display="none")
assert len(log.samples[0].output.choices[0].logprobs.content[0].top_logprobs) == 2, log.samples[0].output

forced = [use_tools(weather(), tool_choice="any"), generate(tool_calls="single")]
asked = MemoryDataset([Sample(input="What is the weather in Paris?", target="Sunny")])
(log,) = eval(Task(dataset=asked, solver=forced), model=model, display="none")
roles = [message.role for message in log.samples[0].messages]
assert log.status == "success" and roles[:3] == ["user", "assistant", "tool"], (log.error, roles)
assert log.samples[0].messages[1].tool_calls[0].function == "weather" and log.samples[0].messages[2].text == "Sunny"
print("ok")
