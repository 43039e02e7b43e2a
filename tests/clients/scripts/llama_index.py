"""LlamaIndex' OpenAILike: complete and chat, streams, tools, structured output, a function agent, errors."""

import asyncio
import sys
from typing import Literal

import openai
from llama_index.core import PromptTemplate
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field

URL = f"{sys.argv[1]}/v1"
(SERVED,) = openai.OpenAI(base_url=URL, api_key="none").models.list().data
COMMON = {"model": SERVED.id, "api_base": URL, "api_key": "none", "temperature": 0, "max_retries": 0}
COMMON |= {"context_window": SERVED.max_model_len}
HI = "What is the capital of France?"
chat = OpenAILike(**COMMON, max_tokens=60, is_chat_model=True, is_function_calling_model=True)


class City(BaseModel):
    """A city and its country."""

    city: str = Field(max_length=20)
    country: Literal["France", "Italy"]


def weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather of a city."""
    return f"Sunny in {city}, 20 degrees"


def chats() -> None:
    messages = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=HI)]
    answer = chat.chat(messages)
    assert "Paris" in answer.message.content and answer.raw.usage.completion_tokens > 1, answer
    parts = list(chat.stream_chat(messages))
    assert "".join(part.delta for part in parts) == parts[-1].message.content == answer.message.content
    assert "Paris" in chat.complete(HI).text and "Paris" in list(chat.stream_complete(HI))[-1].text

    scored = OpenAILike(**COMMON, max_tokens=5, is_chat_model=True, logprobs=True, top_logprobs=2).chat(messages)
    assert len(scored.logprobs) == 5 and all(len(one) == 2 for one in scored.logprobs), scored


def completions() -> None:
    plain = OpenAILike(**COMMON, max_tokens=4)
    answer = plain.complete("The capital of France is").text
    assert "Paris" in answer, answer
    assert list(plain.stream_complete("The capital of France is"))[-1].text == answer


def tools() -> None:
    tool = FunctionTool.from_defaults(weather)
    asked = "What is the weather in Paris?"
    answer = chat.chat_with_tools([tool], asked, tool_required=True)
    calls = chat.get_tool_calls_from_response(answer)
    assert calls[0].tool_name == "weather" and calls[0].tool_kwargs["city"] == "Paris", calls
    *_, last = chat.stream_chat_with_tools([tool], asked, tool_required=True)
    assert [one.tool_kwargs for one in chat.get_tool_calls_from_response(last)] == [one.tool_kwargs for one in calls]
    done = chat.predict_and_call([tool], asked, tool_required=True, allow_parallel_tool_calls=False)
    assert "Sunny in" in str(done), done


def shapes() -> None:
    by_tool = chat.as_structured_llm(City).complete(HI).raw
    assert isinstance(by_tool, City), by_tool
    by_format = OpenAILike(**COMMON, max_tokens=60, is_chat_model=True, should_use_structured_outputs=True)
    made = by_format.structured_predict(City, PromptTemplate(HI))
    assert made == City(city="Paris", country="France"), made


def errors() -> None:
    for wrong, kind in (({"temperature": 2.5}, openai.BadRequestError), ({"model": "other"}, openai.NotFoundError)):
        try:
            chat.chat([ChatMessage(role="user", content=HI)], **wrong)
        except kind as error:
            assert error.body["message"], error
        else:
            raise AssertionError(wrong)


async def asynchronously() -> None:
    answers = await asyncio.gather(*(chat.acomplete(HI) for _ in range(4)))
    parts = [part async for part in await chat.astream_complete(HI)]
    assert {answer.text for answer in answers} == {parts[-1].text}
    agent = FunctionAgent(tools=[weather], llm=chat, system_prompt="Be brief.")
    said = await agent.run("Hello")
    assert str(said), said


for check in (chats, completions, tools, shapes, errors):
    check()
asyncio.run(asynchronously())
print("ok")
