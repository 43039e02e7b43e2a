"""Self-attention: projections, optional norm of each head, rotation, and whatever backend the step was planned by."""

from dataclasses import dataclass

from torch import Tensor

from quire.kernels.ops.heads import HeadNorms
from quire.model.context import ForwardContext
from quire.model.kv import KVSpec
from quire.model.layers.linear import Projection, split_in, split_out
from quire.model.layers.norm import RMSNorm
from quire.model.layers.rotary import Rotation
from quire.model.weights.cursor import Cursor
from quire.model.weights.shard import span


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """One layer's attention; head counts are full."""

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    """Of the products of queries and keys."""
    has_qkv_bias: bool = False
    has_out_bias: bool = False
    has_head_norm: bool = False
    """Queries and keys are normed, each head by itself, before they turn."""
    is_norm_zero_centered: bool = False
    eps: float = 1e-6
    """Of those norms."""
    sliding_window: int | None = None
    softcap: float | None = None


class Attention:
    """Grouped-query attention of one decoder layer, over this rank's heads."""

    def __init__(self, w: Cursor, config: AttentionConfig, layer: int) -> None:
        heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
        mine, mine_kv = (span(count, count, w.group) for count in (heads, kv_heads))
        self._heads, self._kv_heads = mine.stop - mine.start, mine_kv.stop - mine_kv.start
        self._config, self._layer = config, layer
        key_or_value = Projection(kv_heads * dim, kv_heads)
        self._qkv = split_out(
            w,
            config.hidden_size,
            {"q_proj": Projection(heads * dim, heads), "k_proj": key_or_value, "v_proj": key_or_value},
            bias=config.has_qkv_bias,
        )
        self._out = split_in(w / "o_proj", heads * dim, config.hidden_size, units=heads, bias=config.has_out_bias)
        self._norms: HeadNorms | None = None
        if config.has_head_norm:
            q_norm, k_norm = (
                RMSNorm(w / name, dim, config.eps, is_zero_centered=config.is_norm_zero_centered)
                for name in ("q_norm", "k_norm")
            )
            self._norms = HeadNorms(q_norm.weight, k_norm.weight, config.eps)

    @property
    def kv_spec(self) -> KVSpec:
        return KVSpec(self._kv_heads, self._config.head_dim, self._config.sliding_window)

    def __call__(self, x: Tensor, rotation: Rotation, ctx: ForwardContext, residual: Tensor | None = None) -> Tensor:
        """[T, E] -> [R, E], of the tokens that have queries by the plan; plus the residual [R, E] if given."""
        config = self._config
        attended = ctx.plan.backend.run(
            self._layer,
            self._qkv(x).view(len(x), -1, config.head_dim),
            self._norms,
            rotation,
            ctx.plan,
            ctx.kv,
            num_heads=self._heads,
            scale=config.scale,
            sliding_window=config.sliding_window,
            softcap=config.softcap,
        )
        return self._out(attended.flatten(1), residual)
