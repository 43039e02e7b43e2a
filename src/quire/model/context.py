"""What a step tells every layer. Goes down the call as an argument; there is no ambient context."""

from dataclasses import dataclass

from torch import Tensor

from quire.model.attention.backend import AttentionPlan
from quire.model.kv import KVStorage


@dataclass(frozen=True)
class ForwardContext:
    """One step's positions, attention plan and KV storage. Made by the model runner, dead after the step."""

    positions: Tensor
    """[T] int64: each token's place in its sequence."""
    plan: AttentionPlan
    last_plan: AttentionPlan
    """Of the last layer, behind which only the rows go on that are asked for."""
    kv: KVStorage
