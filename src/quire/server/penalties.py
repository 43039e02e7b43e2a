"""Penalties in llama.cpp's words, which Ollama has taken over, and OpenAI's API takes beside its own."""

from collections.abc import Mapping
from typing import Any

ANY_WINDOW = 2**31 - 1
NO_PENALTIES: Mapping[str, float] = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


def penalties(repeat_penalty: float | None, repeat_last_n: int | None) -> dict[str, Any]:
    """What is said of penalties, by the names of SamplingParams.

    They look at the last ``repeat_last_n`` tokens: 0 turns them off, -1 lets them look at all there are.
    """
    if repeat_last_n == 0:
        return dict(NO_PENALTIES)
    found: dict[str, Any] = {}
    if repeat_penalty is not None:
        found["repetition_penalty"] = repeat_penalty
    if repeat_last_n is not None:
        found["penalty_window"] = repeat_last_n if repeat_last_n > 0 else ANY_WINDOW
    return found
