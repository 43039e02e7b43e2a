"""Chooses the source that fits a checkpoint's format."""

from quire.checkpoint.checkpoint import Checkpoint
from quire.core.errors import ConfigError
from quire.model.weights.dummy import DummySource
from quire.model.weights.gguf import GGUFSource
from quire.model.weights.safetensors import SafetensorsSource
from quire.model.weights.source import TensorSource


def open_source(checkpoint: Checkpoint, load_format: str = "auto") -> TensorSource:
    """Open a checkpoint's weights; ``load_format`` is auto, dummy, or the format they must have.

    Raises ConfigError for another format than asked for, CorruptCheckpoint for files that are damaged or missing.
    """
    if load_format == "dummy":
        return DummySource()
    if load_format not in ("auto", checkpoint.format):
        raise ConfigError(
            f"load_format is {load_format}, but {checkpoint.path} holds {checkpoint.format}: use auto, or leave it out."
        )
    if checkpoint.gguf is not None:
        return GGUFSource(checkpoint.gguf, checkpoint.config)
    return SafetensorsSource(checkpoint.weight_files)
