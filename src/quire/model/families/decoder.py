"""The decoder that every family shares: embed, blocks, final norm, head.

A family is a function from a model's config to a DecoderConfig; what it has that no other has, it brings as a brick of
its own. Names of tensors are those of Hugging Face checkpoints.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from quire.model.context import ForwardContext
from quire.model.kv import KVSpec
from quire.model.layers.attention import Attention, AttentionConfig
from quire.model.layers.embedding import Embedding, Head
from quire.model.layers.mlp import GatedMLP
from quire.model.layers.moe import Mixture, MixtureConfig
from quire.model.layers.norm import RMSNorm
from quire.model.layers.rotary import RopeConfig, Rotary, Rotation
from quire.model.weights.cursor import Cursor

_KV_SCALES = ("k_scale", "v_scale", "kv_scale", "k_proj.k_scale", "v_proj.v_scale")
"""What quantized checkpoints say of how keys and values may be kept in fp8. Here --kv-cache-dtype says how they are."""


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """One block's attention, and which of the model's rotations it turns by."""

    attention: AttentionConfig
    rope: int = 0
    mixture: MixtureConfig | None = None
    """Its feed-forward block, where that is a mixture of experts; None: it is dense."""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder, as far as it can differ among families."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    """Of dense feed-forward blocks."""
    eps: float
    activation: str
    layers: tuple[LayerConfig, ...]
    ropes: tuple[RopeConfig, ...]
    is_head_tied: bool
    has_mlp_bias: bool = False
    has_sandwich_norms: bool = False
    """A norm after attention and after the feed-forward block as well as before."""
    is_norm_zero_centered: bool = False
    embedding_scale: float | None = None
    logits_softcap: float | None = None

    @property
    def head_dim(self) -> int:
        return self.layers[0].attention.head_dim


class Block:
    """x + attention(norm(x)), then x + mlp(norm(x)); in a sandwich, each result is normed before it is added."""

    def __init__(self, w: Cursor, config: DecoderConfig, index: int) -> None:
        layer = config.layers[index]
        self.rope = layer.rope
        self.attention = Attention(w / "self_attn", layer.attention, index)
        self.mlp = _feed_forward(w / "mlp", config, layer.mixture)

        def norm(name: str) -> RMSNorm:
            return RMSNorm(w / name, config.hidden_size, config.eps, is_zero_centered=config.is_norm_zero_centered)

        # In a sandwich, post_attention_layernorm is what it says; without, it is the name of the norm before the MLP.
        self.before_attention = norm("input_layernorm")
        self.after_attention = norm("post_attention_layernorm") if config.has_sandwich_norms else None
        self.before_mlp = norm("pre_feedforward_layernorm" if config.has_sandwich_norms else "post_attention_layernorm")
        self.after_mlp = norm("post_feedforward_layernorm") if config.has_sandwich_norms else None
        w.skip("self_attn.rotary_emb.inv_freq")  # older checkpoints carry what is computed from the config
        for name in _KV_SCALES:
            w.skip(f"self_attn.{name}")

    def __call__(self, x: Tensor, rotation: Rotation, ctx: ForwardContext) -> Tensor:
        """[T, E] -> [R, E], of the tokens that have queries by the plan."""
        normed, x = self.before_attention(x), ctx.plan.querying(x)
        if self.after_attention is None:
            x = self.attention(normed, rotation, ctx, x)
        else:
            x = self.after_attention(self.attention(normed, rotation, ctx), x)
        if self.after_mlp is None:
            return self.mlp(self.before_mlp(x), x)
        return self.after_mlp(self.mlp(self.before_mlp(x)), x)


def _feed_forward(w: Cursor, config: DecoderConfig, mixture: MixtureConfig | None) -> GatedMLP | Mixture:
    if mixture is not None:
        return Mixture(w, config.hidden_size, mixture, config.activation)
    return GatedMLP(w, config.hidden_size, config.intermediate_size, config.activation, bias=config.has_mlp_bias)


class CausalLM:
    """A decoder-only language model on one device. Lives on a worker; holds weights and nothing of any request."""

    def __init__(self, config: DecoderConfig, body: Cursor, head: Cursor, *, max_model_len: int | None = None) -> None:
        """Read all weights: ``body`` is where embed_tokens, layers and norm lie, ``head`` the lm_head's place."""
        self.vocab_size = config.vocab_size
        self._embed = Embedding(
            body / "embed_tokens", config.vocab_size, config.hidden_size, scale=config.embedding_scale
        )
        self._blocks = [Block(body / "layers" / index, config, index) for index in range(len(config.layers))]
        self._norm = RMSNorm(
            body / "norm", config.hidden_size, config.eps, is_zero_centered=config.is_norm_zero_centered
        )
        if config.is_head_tied:
            head.skip("weight")  # a copy, where it is stored at all
            self._head = Head(self._embed.table, config.logits_softcap)
        else:
            self._head = Head.load(head, config.vocab_size, config.hidden_size, config.logits_softcap)
        self._ropes = [Rotary(rope, config.head_dim, body.device, max_model_len=max_model_len) for rope in config.ropes]

    @property
    def kv_specs(self) -> list[KVSpec]:
        """What each layer stores."""
        return [block.attention.kv_spec for block in self._blocks]

    def __call__(self, tokens: Tensor, ctx: ForwardContext) -> Tensor:
        """Run a step: [T] int64 token ids -> [R, E] hidden states before the final norm. Writes the step's KV.

        R are the tokens that have queries by the context's ``last_plan``.
        """
        rotations = [rope(ctx.positions) for rope in self._ropes]
        x = self._embed(tokens)
        *blocks, last = self._blocks
        for block in blocks:
            x = block(x, rotations[block.rope], ctx)
        return last(x, rotations[last.rope], replace(ctx, plan=ctx.last_plan))

    def logits(self, hidden: Tensor) -> Tensor:
        """Rows of hidden states [R, E] -> [R, V] float32."""
        return self._head.logits(self._norm(hidden))

    def likeliest(self, hidden: Tensor) -> Tensor:
        """Rows of hidden states [R, E] -> [R] int32: where each row of logits is greatest; -1 for rows not sound."""
        return self._head.likeliest(self._norm(hidden))
