"""What can be said of a model without reading its weights: its family, its size, how its numbers are kept.

Reads headers only, with a bound on their size. Safetensors' is JSON behind its length, 8 bytes little endian.
"""

import json
import operator
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path

import msgspec

from quire.checkpoint.checkpoint import Checkpoint
from quire.core.errors import CorruptCheckpoint

_MAX_HEADER_BYTES = 100_000_000
_DIMENSIONS = (
    "max_position_embeddings",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """``quantization``: the method's name, or the type that most weights are of (BF16, Q4_K)."""

    format: str
    """gguf or safetensors."""
    family: str
    """Such as llama or qwen3."""
    quantization: str
    num_parameters: int
    num_bytes: int
    """Of the files."""
    dimensions: dict[str, int]
    """Of ``config.json``, by its names."""


def facts_of(checkpoint: Checkpoint, *, has_weights: bool = True) -> ModelFacts:
    """Raises CorruptCheckpoint for files that are not what they claim to be. Without weights, there is no size."""
    text_config = checkpoint.config.get("text_config")
    config = {**checkpoint.config, **(text_config if isinstance(text_config, dict) else {})}
    gguf = checkpoint.gguf
    family = gguf.metadata.get("general.architecture") if gguf is not None else checkpoint.config.get("model_type")
    sizes: Counter[str] = Counter()
    for kind, num_elements in _tensors(checkpoint) if has_weights else ():
        sizes[kind] += num_elements
    quantized = checkpoint.config.get("quantization_config")
    method = quantized.get("quant_method") if isinstance(quantized, dict) else None
    return ModelFacts(
        format=checkpoint.format,
        family=str(family or "unknown"),
        quantization=str(method).upper() if method else next((kind for kind, _ in sizes.most_common(1)), "unknown"),
        num_parameters=sizes.total(),
        num_bytes=sum(file.stat().st_size for file in checkpoint.weight_files) if has_weights else 0,
        dimensions={name: config[name] for name in _DIMENSIONS if type(config.get(name)) is int},
    )


def _tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, int]]:
    """Each tensor's type and how many elements it has."""
    if checkpoint.gguf is not None:
        for tensor in checkpoint.gguf.tensors.values():
            yield tensor.type, prod(tensor.shape)
        return
    for file in checkpoint.weight_files:
        yield from _safetensors(file)


def _safetensors(file: Path) -> Iterator[tuple[str, int]]:
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > _MAX_HEADER_BYTES:
                raise CorruptCheckpoint(f"{file} claims a header of {length} bytes: it is no safetensors file.")
            header = json.loads(stream.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                yield str(tensor["dtype"]), prod(map(operator.index, tensor["shape"]))
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise CorruptCheckpoint(f"{file} has no whole header of safetensors. Fetch it again.") from None
