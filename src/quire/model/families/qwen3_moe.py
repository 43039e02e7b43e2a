"""Qwen3 with mixtures of experts in the place of most layers' feed-forward blocks. Source: Yang et al. 2025."""

from dataclasses import replace

from quire.checkpoint.limits import MAX_EXPERTS
from quire.kernels.ops.moe import Routing
from quire.model.families.decoder import CausalLM
from quire.model.families.llama import load, num_layers, read_decoder
from quire.model.families.qwen3 import read_normed_attention
from quire.model.fields import Fields
from quire.model.layers.moe import MixtureConfig
from quire.model.weights.cursor import Cursor


def qwen3_moe(config: Fields, w: Cursor, max_model_len: int | None) -> CausalLM:
    """Qwen3MoeForCausalLM. A sliding window, where it is switched on, is that of all layers."""
    attention = read_normed_attention(config)
    if config.flag("use_sliding_window", False):
        attention = replace(attention, sliding_window=config.integer("sliding_window", None))
    decoder = read_decoder(config, [attention] * num_layers(config))
    mixture = _read_mixture(config)
    step, dense = config.integer("decoder_sparse_step", 1), set(config.integers("mlp_only_layers"))
    layers = [
        layer if index in dense or (index + 1) % step else replace(layer, mixture=mixture)
        for index, layer in enumerate(decoder.layers)
    ]
    return load(replace(decoder, layers=tuple(layers)), w, max_model_len)


def _read_mixture(config: Fields) -> MixtureConfig:
    num_experts = config.integer("num_experts", None, most=MAX_EXPERTS) or config.integer(
        "num_local_experts", 128, most=MAX_EXPERTS
    )
    num_chosen = config.integer("num_experts_per_tok", 8)
    if num_chosen > num_experts:
        raise config.wrong("num_experts_per_tok", f"at most the number of experts, {num_experts}")
    return MixtureConfig(
        num_experts=num_experts,
        intermediate_size=config.integer("moe_intermediate_size", 768),
        routing=Routing(num_chosen, is_renormalized=config.flag("norm_topk_prob", False)),
    )
