"""From a checkpoint on disk to a model ready to run."""

import torch

from quire.checkpoint.checkpoint import Checkpoint
from quire.core.errors import CorruptCheckpoint
from quire.kernels.cpu.packing import Packer
from quire.model.families.decoder import CausalLM
from quire.model.families.registry import build
from quire.model.quantization.registry import method_for
from quire.model.weights.cursor import Cursor
from quire.model.weights.open import open_source


def load_model(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype,
    device: torch.device,
    load_format: str = "auto",
    quantization: str = "auto",
    max_model_len: int | None = None,
    packer: Packer | None = None,
) -> CausalLM:
    """Build the family the checkpoint names and fill it; every tensor of the checkpoint must find its place.

    With a ``packer``, weights are laid out for the native kernels, a GGUF's in its own formats. Raises UnsupportedModel
    for a family, type or quantization that is not implemented, ConfigError where ``quantization`` is another than the
    checkpoint's, CorruptCheckpoint for files that are not what they claim to be.
    """
    method = method_for(checkpoint.config, packer, is_gguf=checkpoint.gguf is not None, asked=quantization)
    source = open_source(checkpoint, load_format)
    try:
        cursor = Cursor(source, dtype, device, method)
        model = build(checkpoint.config, cursor, max_model_len=max_model_len)
        left = sorted(cursor.unread())
    finally:
        source.close()
    if left:
        raise CorruptCheckpoint(
            f"{checkpoint.path} holds {len(left)} tensors that its architecture has no place for, {left[0]!r} the "
            "first: the configuration and the weights do not belong together."
        )
    return model
