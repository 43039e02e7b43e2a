"""What a caller of the offline face may hand over: one of a thing or several, in any of its forms.

Whatever else comes is refused by name, before anything runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple, TypeVar

from quire.core.errors import InvalidRequest
from quire.text.tokenizer import Tokenizer

Prompt = str | Sequence[int] | Mapping[str, Any]
"""Text, token ids, or {"prompt": ...} / {"prompt_token_ids": ...} with an optional "cache_salt"."""
Message = dict[str, Any]
One = TypeVar("One")


class ReadPrompt(NamedTuple):
    """A prompt as its tokens; its text, if that was given."""

    text: str | None
    ids: Sequence[int]
    cache_salt: str


def prompts_of(given: Any) -> list[Prompt]:
    """One prompt or several, as a list. Raises InvalidRequest."""
    if isinstance(given, str | bytes | Mapping):
        return [given]
    if not isinstance(given, Iterable):
        raise InvalidRequest(f"prompts is {given!r:.100}: it must be a prompt, or a list of them.", param="$.prompts")
    several = list(given)
    return [several] if several and isinstance(several[0], Integral) else several


def read_prompt(prompt: Prompt, tokenizer: Tokenizer) -> ReadPrompt:
    """Ids are not looked at. Raises InvalidRequest."""
    asked: Any = prompt
    salt = ""
    if isinstance(prompt, Mapping):
        ids, text = prompt.get("prompt_token_ids"), prompt.get("prompt")
        unknown = set(prompt) - {"prompt", "prompt_token_ids", "cache_salt"}
        if unknown or (ids is None and text is None):
            raise InvalidRequest(
                'A prompt given as a dict has "prompt" or "prompt_token_ids", and may have "cache_salt"; this one '
                f"has {sorted(prompt)}.",
                param="$.prompt",
            )
        salt = prompt.get("cache_salt") or ""
        if ids is not None:
            return ReadPrompt(text, ids, salt)
        asked = text
    if isinstance(asked, str):
        return ReadPrompt(asked, tokenizer.encode(asked), salt)
    return ReadPrompt(None, asked, salt)


def conversations_of(messages: Any) -> list[list[Message]]:
    """One conversation or several, as a list. Raises InvalidRequest."""
    several = [messages] if messages and _is_list(messages) and isinstance(messages[0], Mapping) else messages
    if not _is_list(several) or not all(_is_list(one) and all(isinstance(m, Mapping) for m in one) for one in several):
        raise InvalidRequest(
            f"messages is {messages!r:.100}: it must be a list of messages, which are dicts, or a list of such lists.",
            param="$.messages",
        )
    return [list(one) for one in several]


def one_for_each(name: str, given: One | Sequence[One], kind: type[One], count: int) -> list[One]:
    """``given``, one for all prompts or a list of one for each, as such a list. Raises InvalidRequest."""
    if isinstance(given, kind):
        return [given] * count
    if not isinstance(given, Sequence) or not all(isinstance(one, kind) for one in given):
        raise InvalidRequest(
            f"{name} is {given!r:.100}: it must be of type {kind.__name__}, one for all prompts or a list of one for "
            "each.",
            param=f"$.{name}",
        )
    if len(given) != count:
        raise InvalidRequest(
            f"There are {count} prompts, and {len(given)} in {name}: give one for all, or one for each.",
            param=f"$.{name}",
        )
    return list(given)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
