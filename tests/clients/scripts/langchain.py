"""LangChain's models for OpenAI's, Anthropic's and Ollama's APIs: invoke, stream, tools, structured output, errors."""

import asyncio
import sys
from typing import Literal

import openai
from langchain_anthropic import ChatAnthropic
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaLLM
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

URL = sys.argv[1]
MODEL = openai.OpenAI(base_url=f"{URL}/v1", api_key="none").models.list().data[0].id
OPENAI = {"model": MODEL, "base_url": f"{URL}/v1", "api_key": "none", "temperature": 0, "max_retries": 0}
HI = "What is the capital of France?"


class City(BaseModel):
    """A city and its country."""

    city: str = Field(max_length=20)
    country: Literal["France", "Italy"]


@tool
def weather(city: Literal["Paris", "Rome"], days: int) -> str:
    """The weather of a city on the next days, 1 to 9."""
    return f"Sunny in {city}"


def conversation(chat: BaseChatModel) -> None:
    """What every chat model of LangChain's does."""
    answer = chat.invoke([SystemMessage("Be brief."), HumanMessage(HI)])
    assert "Paris" in answer.text, answer
    assert answer.usage_metadata["total_tokens"] > answer.usage_metadata["output_tokens"] > 1, answer

    whole = AIMessageChunk(content="")
    parts = list(chat.stream(HI))
    for part in parts:
        whole += part
    assert len(parts) > 3 and whole.text == chat.invoke(HI).text, whole
    assert whole.usage_metadata["output_tokens"] > 1, whole
    assert ["Paris" in one.text for one in chat.batch([HI, HI])] == [True, True]

    async def asynchronously() -> None:
        answer = await chat.ainvoke(HI)
        assert answer.text == "".join([part.text async for part in chat.astream(HI)]) == whole.text

    loop.run(asynchronously())


def too_long(chat: BaseChatModel) -> None:
    """What agents catch, to shorten their conversation."""
    for call in (lambda: chat.invoke("word " * 20000), lambda: list(chat.stream("word " * 20000))):
        try:
            call()
        except ContextOverflowError as error:
            assert "too long" in str(error), error
        else:
            raise AssertionError("not refused")


def tools(chat: BaseChatModel, choice: str) -> None:
    """A tool that the model must call, whole and streamed, and its result."""
    asked = HumanMessage("What is the weather in Paris on the next 3 days?")
    bound = chat.bind_tools([weather], tool_choice=choice)
    answer = bound.invoke([asked])
    assert answer.tool_calls and not answer.invalid_tool_calls, answer
    for call in answer.tool_calls:
        assert call["name"] == "weather" and call["args"]["city"] in ("Paris", "Rome"), call
    whole = AIMessageChunk(content="")
    for part in bound.stream([asked]):
        whole += part
    assert [call["args"] for call in whole.tool_calls] == [call["args"] for call in answer.tool_calls], whole
    results = [ToolMessage("Sunny, 20 degrees", tool_call_id=call["id"]) for call in answer.tool_calls]
    assert chat.bind_tools([weather]).invoke([asked, answer, *results]).content


def shapes(chat: BaseChatModel, *methods: str) -> None:
    for method in methods:
        made = chat.with_structured_output(City, method=method).invoke(HI)
        assert isinstance(made, City) and made.country in ("France", "Italy"), (method, made)
        both = chat.with_structured_output(City.model_json_schema(), method=method, include_raw=True).invoke(HI)
        assert set(both["parsed"]) == {"city", "country"} and both["parsing_error"] is None, (method, both)


def of_openai() -> None:
    chat = ChatOpenAI(**OPENAI, max_tokens=100, stream_usage=True)
    conversation(chat)
    too_long(chat)
    tools(chat, "required")
    tools(chat, "weather")
    shapes(chat, "json_schema", "function_calling")
    loose = chat.with_structured_output(method="json_mode").invoke(f"{HI} As JSON with the keys city, country.")
    assert loose["city"] == "Paris", loose
    scored = chat.bind(logprobs=True, top_logprobs=2).invoke(HI).response_metadata["logprobs"]["content"]
    assert scored and all(len(one["top_logprobs"]) == 2 for one in scored)
    streamed = list(chat.with_structured_output(City).stream(HI))
    assert streamed[-1].city == "Paris", streamed

    responses = ChatOpenAI(**OPENAI, max_tokens=100, use_responses_api=True)
    conversation(responses)
    too_long(responses)
    tools(responses, "required")
    shapes(responses, "json_schema", "function_calling")
    first = responses.invoke(HI)
    went_on = responses.invoke("And of Italy?", previous_response_id=first.response_metadata["id"])
    assert went_on.usage_metadata["input_tokens"] > first.usage_metadata["input_tokens"]

    legacy = OpenAI(**OPENAI, max_tokens=4)
    said = legacy.invoke("The capital of France is")
    assert "Paris" in said and "".join(legacy.stream("The capital of France is")) == said
    assert [len(one) for one in legacy.generate(["One, two,", "Three, four,"]).generations] == [1, 1]

    for call in (
        lambda: ChatOpenAI(**OPENAI | {"temperature": 9}).invoke(HI),
        lambda: list(ChatOpenAI(**OPENAI | {"temperature": 9}).stream(HI)),
    ):
        try:
            call()
        except openai.BadRequestError as error:
            assert error.body["message"], error
        else:
            raise AssertionError("not refused")
    try:
        OpenAIEmbeddings(
            model=MODEL, base_url=f"{URL}/v1", api_key="none", check_embedding_ctx_length=False
        ).embed_query("x")
    except openai.NotFoundError as error:
        assert error.body["message"], error
    else:
        raise AssertionError("there are no embeddings")


def of_anthropic() -> None:
    chat = ChatAnthropic(model=MODEL, base_url=URL, api_key="none", temperature=0, max_tokens=100, max_retries=0)
    conversation(chat)
    too_long(chat)
    tools(chat, "any")
    tools(chat, "weather")
    shapes(chat, "function_calling", "json_schema")
    assert chat.get_num_tokens_from_messages([HumanMessage(HI)]) > 5


def of_ollama() -> None:
    chat = ChatOllama(model=MODEL, base_url=URL, temperature=0, num_predict=100, validate_model_on_init=True)
    conversation(chat)
    assert chat.bind_tools([weather]).invoke("Use the tool weather for Paris.").usage_metadata["input_tokens"] > 60
    shapes(chat, "json_schema")
    said = OllamaLLM(model=MODEL, base_url=URL, temperature=0, num_predict=20).invoke(HI)
    assert "Paris" in said, said


# LangChain keeps connections for all models of an address: they live in one loop.
with asyncio.Runner() as loop:
    for check in (of_openai, of_anthropic, of_ollama):
        check()
print("ok")
