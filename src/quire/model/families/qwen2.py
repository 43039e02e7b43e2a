"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values. Source: Yang et al. 2024."""

from dataclasses import replace

from quire.model.families.decoder import CausalLM
from quire.model.families.llama import layer_types, load, num_layers, read_attention, read_decoder
from quire.model.fields import Fields
from quire.model.layers.attention import AttentionConfig
from quire.model.weights.cursor import Cursor


def qwen2(config: Fields, w: Cursor, max_model_len: int | None) -> CausalLM:
    """Qwen2ForCausalLM."""
    attention = replace(read_attention(config), has_qkv_bias=True)
    return load(read_decoder(config, windowed(config, attention)), w, max_model_len)


def windowed(config: Fields, attention: AttentionConfig) -> list[AttentionConfig]:
    """One for each layer: with use_sliding_window, layers from max_window_layers on see a window."""
    count = num_layers(config)
    if not config.flag("use_sliding_window", False) or "sliding_window" not in config:
        return [attention] * count
    first = config.integer("max_window_layers", 28, least=0)
    types = layer_types(config, ["sliding_attention" if i >= first else "full_attention" for i in range(count)])
    sliding = replace(attention, sliding_window=config.integer("sliding_window"))
    return [sliding if kind == "sliding_attention" else attention for kind in types]
