"""The arguments of a call as an object, for APIs that do not tell them as text."""

from typing import Any

from pydantic_core import from_json

_INVALID = "INVALID_JSON"
"""The key under which Anthropic's clients hand back what is no JSON."""


def arguments_of(text: str, *, is_cut: bool = False) -> dict[str, Any]:
    """What a model wrote, as an object: as far as it goes if the reply was cut off there.

    What is no object at all is kept as text under ``INVALID_JSON``, so that nothing is lost and no call fails on it.
    """
    try:
        found = from_json(text, allow_inf_nan=False, allow_partial=is_cut)
    except ValueError:
        found = {} if is_cut and not text.strip() else None
    return found if isinstance(found, dict) else {_INVALID: text}
