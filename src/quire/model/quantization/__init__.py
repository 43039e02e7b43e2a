"""Quantization methods, one file each; ``method_for`` chooses by the checkpoint's config."""

from collections.abc import Mapping
from typing import Any

from quire.core.errors import UnsupportedModel
from quire.model.quantization.method import Method, Side, Weight
from quire.model.quantization.plain import Plain, PlainWeight
from quire.model.weights.cursor import Part

__all__ = ["Method", "Part", "Plain", "PlainWeight", "Side", "Weight", "method_for"]


def method_for(config: Mapping[str, Any]) -> Method:
    """The method of a checkpoint's linears. Raises UnsupportedModel, naming a method that is not implemented."""
    stated = config.get("quantization_config")
    if not stated:
        return Plain()
    name = stated.get("quant_method", stated) if isinstance(stated, Mapping) else stated
    raise UnsupportedModel(
        f"The checkpoint's quantization_config names the method {name!r}, which is not implemented: choose an "
        "unquantized version of the model, or a GGUF file.",
        param="$.quantization_config",
    )
