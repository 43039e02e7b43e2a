"""From a checkpoint on disk to a model ready to run."""

import torch

from quire.checkpoint.checkpoint import Checkpoint
from quire.core.errors import CorruptCheckpoint
from quire.model.families.decoder import CausalLM
from quire.model.families.registry import build
from quire.model.quantization import method_for
from quire.model.weights.cursor import Cursor
from quire.model.weights.source import open_tensors


def load_model(
    checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device, load_format: str = "auto"
) -> CausalLM:
    """Build the family the checkpoint names and fill it; every tensor of the checkpoint must find its place.

    Raises UnsupportedModel for a family, type or quantization that is not implemented, CorruptCheckpoint for files
    that are not what they claim to be.
    """
    tensors = open_tensors(checkpoint, load_format)
    cursor = Cursor(tensors, dtype=dtype, device=device, method=method_for(checkpoint.config))
    model = build(checkpoint.config, cursor)
    left = sorted(cursor.unread())
    if left:
        raise CorruptCheckpoint(
            f"{checkpoint.path} holds {len(left)} tensors that its architecture has no place for, {left[0]!r} the "
            "first: the configuration and the weights do not belong together."
        )
    return model
