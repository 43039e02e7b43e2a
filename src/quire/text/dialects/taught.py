"""Tools for models whose template knows none: the conversation itself teaches them, in the hermes dialect.

Law: a conversation without tools, calls and their results is left as it is.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from quire.text.dialects.dialect import Tool

_LESSON = """You can call functions. These are available, one JSON object a line:
<tools>
{tools}
</tools>
To call one, write its name and arguments as JSON inside tool_call tags:
<tool_call>
{{"name": "the_function", "arguments": {{"an_argument": "its value"}}}}
</tool_call>"""


def taught(messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The conversation in plain messages: tools in the system message, calls and results in the text."""
    plain = [_plain(message) for message in messages]
    if not tools:
        return plain
    lesson = _LESSON.format(tools="\n".join(json.dumps(tool.for_template(), ensure_ascii=False) for tool in tools))
    if plain and plain[0]["role"] == "system":
        said = plain[0]["content"]
        return [{**plain[0], "content": f"{said}\n\n{lesson}" if said else lesson}, *plain[1:]]
    return [{"role": "system", "content": lesson}, *plain]


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not calls:
        return dict(message)
    said = [message["content"]] if message.get("content") else []
    said += [f"<tool_call>\n{_call(call)}\n</tool_call>" for call in calls]
    return {**{k: v for k, v in message.items() if k != "tool_calls"}, "content": "\n".join(said)}


def _call(call: Mapping[str, Any]) -> str:
    function = call["function"]
    return json.dumps({"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False)
