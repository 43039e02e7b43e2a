"""The official client: models, chat, streams, tools, structured output, completions, errors."""

import json
import sys

# This file has the name of the package that it tests.
sys.path.pop(0)

import openai

client = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none")
model = client.models.list().data[0].id
assert client.models.retrieve(model).id == model

HI = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}

answer = client.chat.completions.create(model=model, messages=HI, temperature=0, max_completion_tokens=20)
assert "Paris" in answer.choices[0].message.content, answer
assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens

with client.chat.completions.stream(model=model, messages=HI, temperature=0, max_completion_tokens=20) as stream:
    text = "".join(event.delta for event in stream if event.type == "content.delta")
    assert text == stream.get_final_completion().choices[0].message.content == answer.choices[0].message.content

called = client.chat.completions.create(model=model, messages=HI, tools=[WEATHER], tool_choice="required")
arguments = json.loads(called.choices[0].message.tool_calls[0].function.arguments)
assert set(arguments) == {"city", "days"} and called.choices[0].finish_reason == "tool_calls", called

forced = {"type": "function", "function": {"name": "weather"}}
with client.chat.completions.stream(model=model, messages=HI, tools=[WEATHER], tool_choice=forced) as stream:
    for _ in stream:
        pass
    assert stream.get_final_completion().choices[0].message.tool_calls[0].function.name == "weather"

schema = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "population": {"type": "integer"}},
    "required": ["city", "population"],
    "additionalProperties": False,
}
shaped = client.chat.completions.create(
    model=model,
    messages=HI,
    max_completion_tokens=200,
    response_format={"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": schema}},
)
assert set(json.loads(shaped.choices[0].message.content)) == {"city", "population"}, shaped

scored = client.completions.create(model=model, prompt="The capital of France is", logprobs=2, max_tokens=4, echo=True)
assert (
    len(scored.choices[0].logprobs.tokens) == scored.usage.total_tokens
    and scored.choices[0].logprobs.token_logprobs[0] is None
)

for wrong in ({"model": "other"}, {"temperature": 9}, {"messages": []}):
    try:
        client.chat.completions.create(**{"model": model, "messages": HI, **wrong})
    except openai.APIStatusError as error:
        assert 400 <= error.status_code < 500 and error.body["message"], error
    else:
        raise AssertionError(wrong)

response = client.responses.create(
    model=model, input="What is the capital of France?", temperature=0, max_output_tokens=20
)
assert "Paris" in response.output_text and client.responses.retrieve(response.id).id == response.id
again = client.responses.create(model=model, input="And of Italy?", previous_response_id=response.id, temperature=0)
assert again.usage.input_tokens > response.usage.input_tokens
with client.responses.stream(model=model, input="Count to three.", max_output_tokens=20) as stream:
    kinds = [event.type for event in stream]
    assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete"), kinds
print("ok")
