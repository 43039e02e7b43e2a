"""Llama 2 and 3, and Mistral: the plain pre-norm decoder. Sources: Touvron et al. 2023; Jiang et al. 2023."""

from dataclasses import replace

from quire.checkpoint.limits import MAX_LAYERS
from quire.model.families.decoder import CausalLM, DecoderConfig, LayerConfig
from quire.model.fields import Fields
from quire.model.layers.attention import AttentionConfig
from quire.model.layers.rotary import read_rope
from quire.model.weights.cursor import Cursor


def llama(config: Fields, w: Cursor, max_model_len: int | None) -> CausalLM:
    """LlamaForCausalLM."""
    has_bias = config.flag("attention_bias", False)
    attention = replace(read_attention(config), has_qkv_bias=has_bias, has_out_bias=has_bias)
    decoder = read_decoder(config, [attention] * num_layers(config))
    return load(replace(decoder, has_mlp_bias=config.flag("mlp_bias", False)), w, max_model_len)


def mistral(config: Fields, w: Cursor, max_model_len: int | None) -> CausalLM:
    """MistralForCausalLM: Llama with a sliding window, unless its config says null."""
    if "sliding_window" not in config.values:
        config = config.over({"sliding_window": 4096})
    config = config.over({"num_key_value_heads": 8})
    attention = replace(read_attention(config), sliding_window=config.integer("sliding_window", None))
    return load(read_decoder(config, [attention] * num_layers(config)), w, max_model_len)


def load(decoder: DecoderConfig, w: Cursor, max_model_len: int | None) -> CausalLM:
    """Read a decoder that lies under ``model``, and its head under ``lm_head``."""
    return CausalLM(decoder, w / "model", w / "lm_head", max_model_len=max_model_len)


def num_layers(config: Fields) -> int:
    return config.integer("num_hidden_layers", most=MAX_LAYERS)


def read_attention(config: Fields) -> AttentionConfig:
    """What the configs of Llama's relatives say alike."""
    hidden_size, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.wrong("num_key_value_heads", f"a divisor of num_attention_heads, {heads}")
    head_dim = config.integer("head_dim", None)
    if head_dim is None and hidden_size % heads:
        raise config.wrong("hidden_size", f"a multiple of num_attention_heads, {heads}, where there is no head_dim")
    head_dim = head_dim or hidden_size // heads
    return AttentionConfig(
        hidden_size=hidden_size,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        eps=config.number("rms_norm_eps", 1e-6),
    )


def read_decoder(config: Fields, attention: list[AttentionConfig]) -> DecoderConfig:
    """What the configs of Llama's relatives say alike of the rest; ``attention`` is that of each layer."""
    return DecoderConfig(
        vocab_size=config.integer("vocab_size"),
        hidden_size=config.integer("hidden_size"),
        intermediate_size=config.integer("intermediate_size"),
        eps=config.number("rms_norm_eps", 1e-6),
        activation=config.text("hidden_act", "silu"),
        layers=tuple(LayerConfig(attention=layer) for layer in attention),
        ropes=(read_rope(config),),
        is_head_tied=config.flag("tie_word_embeddings", False),
    )


def layer_types(config: Fields, default: list[str]) -> list[str]:
    """For each layer full_attention or sliding_attention, as the config lists them or else by ``default``."""
    types = config.texts("layer_types", len(default)) or default
    if not {"full_attention", "sliding_attention"}.issuperset(types):
        raise config.wrong("layer_types", "a list of full_attention and sliding_attention")
    return list(types)
