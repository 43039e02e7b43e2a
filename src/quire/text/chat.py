"""Conversations become prompts, through the model's chat template.

A template is a small program that came with the model; it runs in ``sandbox`` within budgets of time and size, on
whatever thread renders. jinja2 is imported and the template compiled when the first conversation is rendered, or by
``compile``. Law: renders what transformers' ``apply_chat_template`` renders.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from quire.core.errors import ConfigError, InvalidRequest, Unsupported, UnsupportedModel

if TYPE_CHECKING:
    from jinja2 import Template

    from quire.text.sandbox import TemplateEnvironment

MAX_TEMPLATE_CHARS = 1_000_000
MAX_PROMPT_CHARS = 64_000_000
MAX_RENDER_TIME_S = 10.0
"""Of the rendering thread's own time; ordinary conversations take a thousandth of it."""

_TEXT_PARTS = ("text", "input_text", "output_text")
_REASONING = ("reasoning_content", "reasoning")
"""Names of a message's reasoning, for which some templates have another, ``thinking``."""
_RESERVED = frozenset(
    (
        "messages",
        "tools",
        "documents",
        "add_generation_prompt",
        "continue_final_message",
        "bos_token",
        "eos_token",
        "self",  # Jinja's own
    )
)
_END = "\ue000end of the message to be continued\ue000 "
"""Put behind a message to find its place in the prompt; the space at its end shows whether the template trims."""


class _Compiled(NamedTuple):
    environment: "TemplateEnvironment"
    template: "Template"
    takes_parts: bool
    """It loops over the parts of a message's content."""
    takes_strings: bool
    is_harmony: bool
    """gpt-oss': beside calls it takes a message's content or its thinking, and writes either as what was thought."""
    variables: frozenset[str]


class ChatTemplate:
    """A model's chat template and the tokens it may write. Any thread may render.

    ``source`` is Jinja text; ``bos_token`` and ``eos_token`` are None or empty where the model has none. Nothing is
    checked before ``compile``, which raises UnsupportedModel for a template that is not valid.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str | None,
        eos_token: str | None,
        max_chars: int = MAX_PROMPT_CHARS,
        max_time_s: float = MAX_RENDER_TIME_S,
    ) -> None:
        self.source = source
        self._tokens = {name: token for name, token in (("bos_token", bos_token), ("eos_token", eos_token)) if token}
        self._max_chars = max_chars
        self._max_time_s = max_time_s
        self._lock = threading.Lock()

    def compile(self) -> None:
        """Make ready to render; raises UnsupportedModel for a template that is not valid."""
        with self._lock:
            _ = self._compiled

    @property
    def variables(self) -> frozenset[str]:
        """Names the template reads; others of ``render`` have no effect."""
        self.compile()
        return self._compiled.variables

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        documents: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for a conversation, special tokens written out: encode it without adding any.

        ``continue_final_message`` ends the prompt inside the last message, for the model to go on with it.
        ``variables`` are more of them for the template, under names that are not its own. Raises InvalidRequest for
        what the template refuses or cannot render within its budgets, Unsupported for parts that are not text.
        """
        self.compile()
        compiled = self._compiled
        for name in variables or ():
            if (
                not name.isidentifier()
                or name.startswith("_")
                or name in _RESERVED
                or name in compiled.environment.globals
            ):
                raise InvalidRequest(
                    f"chat_template_kwargs holds {name[:80]!r}, a name that only the server may set.",
                    param="$.chat_template_kwargs",
                )
        if continue_final_message and add_generation_prompt:
            raise InvalidRequest(
                "continue_final_message needs add_generation_prompt=false: a message is either continued or begun.",
                param="$.continue_final_message",
            )
        conversation = [_message(message, f"$.messages[{i}]", compiled) for i, message in enumerate(messages)]
        if continue_final_message:
            _mark_end(conversation)
        filled = {
            **self._tokens,
            **(variables or {}),
            "messages": conversation,
            "tools": tools,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
        }
        prompt = self._run(compiled, filled)
        return _cut_at_end(prompt, len(conversation) - 1) if continue_final_message else prompt

    def _run(self, compiled: _Compiled, variables: dict[str, Any]) -> str:
        from jinja2 import TemplateError

        from quire.text.sandbox import OverBudget

        pieces: list[str] = []
        size = 0
        try:
            with compiled.environment.budget(self._max_chars, self._max_time_s) as budget:
                for piece in compiled.template.generate(variables):
                    pieces.append(piece)
                    size += len(piece)
                    budget.step()
                    if size > self._max_chars:
                        raise OverBudget(f"it wrote more than {self._max_chars} characters")
        except OverBudget as error:
            raise InvalidRequest(
                f"The model's chat template was stopped: {error}. Send a shorter conversation.", param="$.messages"
            ) from None
        except TemplateError as error:
            raise InvalidRequest(
                f"The model's chat template refuses these messages: {error.message}", param="$.messages"
            ) from None
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            MemoryError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            # What a template's own expressions raise when a message is not of the shape it expects.
            raise InvalidRequest(
                f"The model's chat template cannot render these messages ({type(error).__name__}: {error}).",
                param="$.messages",
            ) from None
        return "".join(pieces)

    @cached_property
    def _compiled(self) -> _Compiled:
        from jinja2 import TemplateError
        from jinja2.meta import find_undeclared_variables

        from quire.text.content_format import reads_parts, tests_for_strings
        from quire.text.sandbox import OverBudget, TemplateEnvironment

        if len(self.source) > MAX_TEMPLATE_CHARS:
            raise UnsupportedModel(
                f"The chat template has {len(self.source)} characters; at most {MAX_TEMPLATE_CHARS} are allowed."
            )
        environment = TemplateEnvironment()
        try:
            with environment.budget(self._max_chars, self._max_time_s):
                tree = environment.parse(self.source)
                takes_parts = reads_parts(tree)
                return _Compiled(
                    environment,
                    environment.from_string(self.source),
                    takes_parts,
                    not takes_parts or tests_for_strings(tree),
                    "<|channel|>analysis" in self.source,
                    frozenset(find_undeclared_variables(tree)),
                )
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            raise UnsupportedModel(
                f"The chat template is not valid{f' at line {line}' if line else ''}: {error.message}. "
                "Give another with --chat-template."
            ) from None
        except (OverBudget, RecursionError, SyntaxError) as error:
            raise UnsupportedModel(f"The chat template cannot be compiled: {error}. Give --chat-template.") from None


def load_template(text_or_path: str) -> str:
    """The template's text, from a file or given itself; raises ConfigError if it is neither."""
    if "{{" in text_or_path or "{%" in text_or_path:
        return text_or_path
    try:
        return Path(text_or_path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"The chat template {text_or_path[:200]!r} is neither Jinja text nor a file that can be read ({error})."
        ) from None


def _message(message: Mapping[str, Any], path: str, compiled: _Compiled) -> dict[str, Any]:
    """The message as the template expects it: text or parts, and the arguments of tool calls as objects."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InvalidRequest(f"{path} must be an object with a role and a content.", param=path)
    made = dict(message)
    content = message.get("content")
    if content is None:
        made["content"] = ""
    elif isinstance(content, str):
        made["content"] = content if compiled.takes_strings else [{"type": "text", "text": content}]
    else:
        parts = _parts(content, f"{path}.content")
        made["content"] = parts if compiled.takes_parts else "\n".join(part["text"] for part in parts)
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        made["tool_calls"] = [_tool_call(call, f"{path}.tool_calls[{i}]") for i, call in enumerate(calls)]
    reasoning = next((message[name] for name in _REASONING if message.get(name)), None)
    if reasoning and calls and content and compiled.is_harmony:
        made["content"] = f"{reasoning}\n{made['content']}"
    elif reasoning:
        made.setdefault("thinking", reasoning)
    return made


def _parts(content: Any, path: str) -> list[dict[str, str]]:
    if not isinstance(content, (list, tuple)):
        raise InvalidRequest(f"{path} must be a string or a list of text parts.", param=path)
    parts: list[dict[str, str]] = []
    for i, part in enumerate(content):
        kind = "text" if isinstance(part, str) else part.get("type") if isinstance(part, Mapping) else None
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
        if kind not in _TEXT_PARTS:
            raise Unsupported(
                f"{path}[{i}].type is {kind!r:.80}: the model reads text only, in parts of type text.",
                param=f"{path}[{i}].type",
            )
        if not isinstance(text, str):
            raise InvalidRequest(f"{path}[{i}].text must be a string.", param=f"{path}[{i}].text")
        parts.append({"type": "text", "text": text})
    return parts


def _tool_call(call: Any, path: str) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError):
        raise InvalidRequest(
            f"{path}.function.arguments must be a JSON object as text.", param=f"{path}.function.arguments"
        ) from None
    return {**call, "function": {**function, "arguments": arguments}}


def _mark_end(conversation: list[dict[str, Any]]) -> None:
    if not conversation:
        raise InvalidRequest("continue_final_message needs a message to continue.", param="$.messages")
    content = conversation[-1]["content"]
    if isinstance(content, str):
        conversation[-1]["content"] = content + _END
    elif content:
        content[-1] = {**content[-1], "text": content[-1]["text"] + _END}


def _cut_at_end(prompt: str, index: int) -> str:
    """The prompt up to the end of the message that is continued; trimmed there if the template trims messages."""
    at = prompt.rfind(_END.rstrip())
    if at < 0:
        raise InvalidRequest(
            f"The model's chat template leaves $.messages[{index}] out or changes it, so it cannot be continued.",
            param=f"$.messages[{index}].content",
        )
    return prompt[:at] if prompt.startswith(_END, at) else prompt[:at].rstrip()
