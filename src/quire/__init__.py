"""Quire: an LLM inference and serving engine.

    from quire import LLM, SamplingParams

The names below are loaded when they are first asked for, so that ``import quire`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from quire.version import __version__

if TYPE_CHECKING:
    from quire.core.outputs import BeamSearchOutput, CompletionOutput, RequestOutput
    from quire.core.sampling_params import BeamSearchParams, SamplingParams
    from quire.core.structured_outputs import StructuredOutputsParams
    from quire.engine.async_llm import AsyncLLM
    from quire.llm import LLM

__all__ = [
    "LLM",
    "AsyncLLM",
    "BeamSearchOutput",
    "BeamSearchParams",
    "CompletionOutput",
    "RequestOutput",
    "SamplingParams",
    "StructuredOutputsParams",
    "__version__",
]

_HOMES = {
    "LLM": "quire.llm",
    "AsyncLLM": "quire.engine.async_llm",
    "SamplingParams": "quire.core.sampling_params",
    "StructuredOutputsParams": "quire.core.structured_outputs",
    "BeamSearchParams": "quire.core.sampling_params",
    "BeamSearchOutput": "quire.core.outputs",
    "RequestOutput": "quire.core.outputs",
    "CompletionOutput": "quire.core.outputs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'quire' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
