"""Gemma 3, text: five layers that see a window to one that sees all, sandwich norms, a scaled embedding.

Source: Gemma Team 2025. The multimodal checkpoints are the same decoder under ``language_model``, with a vision tower
beside it; the tower is left unread.
"""

import math
from dataclasses import replace

from quire.core.errors import UnsupportedModel
from quire.model.families.decoder import CausalLM, DecoderConfig, LayerConfig
from quire.model.families.llama import layer_types, num_layers, read_attention
from quire.model.fields import Fields
from quire.model.layers.rotary import RopeConfig
from quire.model.weights.cursor import Cursor

# The text_config of multimodal checkpoints leaves out what equals these.
_DEFAULTS = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131_072,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "tie_word_embeddings": True,
}
_FULL, _SLIDING = "full_attention", "sliding_attention"


def gemma3_text(config: Fields, w: Cursor, max_model_len: int | None) -> CausalLM:
    """Gemma3ForCausalLM."""
    return CausalLM(_read(config), w / "model", w / "lm_head", max_model_len=max_model_len)


def gemma3(config: Fields, w: Cursor, max_model_len: int | None) -> CausalLM:
    """Gemma3ForConditionalGeneration, its text half, under the older names of its tensors or the newer."""
    text = config.inner("text_config")
    if text is None:
        raise config.wrong("text_config", "the configuration of the language model")
    for name in w.unread():
        if name.removeprefix("model.").startswith(("vision_tower.", "multi_modal_projector.")):
            w.skip(name)
    if "language_model.model.norm.weight" in w:
        body, head = w / "language_model" / "model", w / "language_model" / "lm_head"
    else:
        body, head = w / "model" / "language_model", w / "lm_head"
    return CausalLM(_read(text), body, head, max_model_len=max_model_len)


def _read(config: Fields) -> DecoderConfig:
    config = config.over(_DEFAULTS)
    if config.flag("use_bidirectional_attention", False):
        raise UnsupportedModel("The model attends in both directions (use_bidirectional_attention): it embeds text.")
    has_bias = config.flag("attention_bias", False)
    everywhere = replace(
        read_attention(config),
        scale=config.number("query_pre_attn_scalar") ** -0.5,
        softcap=config.number("attn_logit_softcapping", None),
        has_qkv_bias=has_bias,
        has_out_bias=has_bias,
        has_head_norm=True,
        is_norm_zero_centered=True,
    )
    near = replace(everywhere, sliding_window=config.integer("sliding_window"))
    pattern = config.integer("sliding_window_pattern")
    types = layer_types(config, [_SLIDING if (i + 1) % pattern else _FULL for i in range(num_layers(config))])
    return DecoderConfig(
        vocab_size=config.integer("vocab_size"),
        hidden_size=config.integer("hidden_size"),
        intermediate_size=config.integer("intermediate_size"),
        eps=config.number("rms_norm_eps"),
        activation=config.text("hidden_activation"),
        layers=tuple(
            LayerConfig(attention=everywhere, rope=0) if kind == _FULL else LayerConfig(attention=near, rope=1)
            for kind in types
        ),
        ropes=_read_ropes(config),
        is_head_tied=config.flag("tie_word_embeddings", True),
        has_sandwich_norms=True,
        is_norm_zero_centered=True,
        embedding_scale=math.sqrt(config.integer("hidden_size")),
        logits_softcap=config.number("final_logit_softcapping", None),
    )


def _read_ropes(config: Fields) -> tuple[RopeConfig, RopeConfig]:
    """Full and sliding layers turn differently; only the former are scaled in the older spelling."""
    max_position = config.integer("max_position_embeddings")
    nested = config.inner("rope_parameters") or Fields({})
    full = nested.inner(_FULL) or config.inner("rope_scaling") or Fields({})
    sliding = nested.inner(_SLIDING) or Fields({})
    full_theta = full.number("rope_theta", None) or config.number("rope_theta", 1_000_000.0)
    sliding_theta = sliding.number("rope_theta", None) or config.number("rope_local_base_freq", 10_000.0)
    return RopeConfig(full_theta, max_position, full), RopeConfig(sliding_theta, max_position, sliding)
