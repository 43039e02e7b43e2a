"""instructor over OpenAI's API in each of its modes, and over Anthropic's: objects, lists, parts of them, retries."""

import asyncio
import sys
from collections.abc import Iterable
from typing import Literal

import anthropic
import instructor
import openai
from instructor import Mode
from instructor.core.exceptions import InstructorRetryException
from pydantic import BaseModel, Field, field_validator

URL = f"{sys.argv[1]}/v1"
plain = openai.OpenAI(base_url=URL, api_key="none", max_retries=0)
later = openai.AsyncOpenAI(base_url=URL, api_key="none", max_retries=0)
MODEL = plain.models.list().data[0].id
HI = [{"role": "user", "content": "What is the capital of France?"}]
ASK = {"model": MODEL, "messages": HI, "temperature": 0, "max_retries": 1}


class City(BaseModel):
    city: str = Field(max_length=20)
    country: Literal["France", "Italy"]


SHAPE = City.model_json_schema()


def modes() -> None:
    for mode in (Mode.TOOLS, Mode.TOOLS_STRICT, Mode.JSON_SCHEMA, Mode.JSON, Mode.MD_JSON):
        ask = dict(ASK)
        if mode is Mode.JSON:
            fill = 'Paris is in France. Fill in: {"city": "...", "country": "..."}'
            ask["messages"] = [{"role": "user", "content": fill}]
        if mode is Mode.MD_JSON:  # It hopes that the model does as it is told, which this one is too small for.
            ask["extra_body"] = {"structured_outputs": {"json": SHAPE}}
        client = instructor.from_openai(plain, mode=mode)
        made, raw = client.create_with_completion(**ask, response_model=City, max_tokens=200)
        assert made.country == "France" and raw.usage.completion_tokens > 1, (mode, made)
    made = instructor.from_openai(plain, mode=Mode.RESPONSES_TOOLS).create(**ASK, response_model=City)
    assert made.country == "France", made


def several() -> None:
    class Two(BaseModel):
        cities: list[City] = Field(min_length=2, max_length=2)

    client = instructor.from_openai(plain, mode=Mode.JSON_SCHEMA)
    assert len(client.create(**ASK, response_model=Two, max_tokens=200).cities) == 2
    for mode in (Mode.TOOLS, Mode.JSON_SCHEMA):
        client = instructor.from_openai(plain, mode=mode)
        parts = list(client.create_partial(**ASK, response_model=City, max_tokens=60))
        assert len(parts) > 2 and parts[-1].country == "France", (mode, parts)

    # Calling is the model's choice, which is too small for it: it may answer only as one does that calls twice.
    arguments = '[{]"city": "(Paris|Rome)", "country": "(France|Italy)"}'
    call = f'<tool_call>\n[{{]"name": "City", "arguments": {arguments}}}\n</tool_call>\n?'
    client = instructor.from_openai(plain, mode=Mode.PARALLEL_TOOLS)
    led = ASK | {"extra_body": {"structured_outputs": {"regex": f"({call}){{2}}"}}}
    many = list(client.create(**led, response_model=Iterable[City], max_tokens=100))
    assert len(many) == 2 and all(isinstance(one, City) for one in many), many


def of_anthropic() -> None:
    claude = anthropic.Anthropic(base_url=sys.argv[1], api_key="none", max_retries=0)
    ask = {"model": MODEL, "messages": HI, "max_tokens": 100, "max_retries": 1, "response_model": City}
    assert instructor.from_anthropic(claude, mode=Mode.ANTHROPIC_TOOLS).create(**ask).country == "France"
    ask["output_config"] = {"format": {"type": "json_schema", "schema": SHAPE | {"additionalProperties": False}}}
    assert instructor.from_anthropic(claude, mode=Mode.ANTHROPIC_JSON).create(**ask).country == "France"


def retries() -> None:
    """What the model's maker does not like goes back to the model, with what was wrong."""
    tries = []

    class Picky(City):
        @field_validator("city")
        @classmethod
        def known(cls, name: str) -> str:
            tries.append(name)
            if len(tries) == 1:
                raise ValueError("try again")
            return name

    client = instructor.from_openai(plain, mode=Mode.TOOLS)
    made = client.create(**ASK | {"max_retries": 2}, response_model=Picky, max_tokens=60)
    assert len(tries) == 2 and made.city == tries[1], tries
    try:
        client.create(**ASK | {"temperature": 9}, response_model=City)
    except InstructorRetryException as error:
        assert "temperature" in str(error), error
    else:
        raise AssertionError("not refused")


async def asynchronously() -> None:
    client = instructor.from_openai(later, mode=Mode.TOOLS)
    made = await asyncio.gather(*(client.create(**ASK, response_model=City, max_tokens=60) for _ in range(4)))
    assert {(one.city, one.country) for one in made} == {("Paris", "France")}, made
    client = instructor.from_openai(later, mode=Mode.JSON_SCHEMA)
    async for part in client.create_partial(**ASK, response_model=City, max_tokens=60):
        last = part
    assert last.city == "Paris", last


for check in (modes, several, of_anthropic, retries):
    check()
asyncio.run(asynchronously())
print("ok")
