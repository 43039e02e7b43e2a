"""Qwen3, dense: Llama with a norm on each query and key head. Source: Yang et al. 2025."""

from dataclasses import replace

from quire.model.families.decoder import CausalLM
from quire.model.families.llama import load, read_attention, read_decoder
from quire.model.families.qwen2 import windowed
from quire.model.fields import Fields
from quire.model.layers.attention import AttentionConfig
from quire.model.weights.cursor import Cursor


def qwen3(config: Fields, w: Cursor, max_model_len: int | None) -> CausalLM:
    """Qwen3ForCausalLM."""
    config = config.over({"head_dim": 128})
    return load(read_decoder(config, windowed(config, read_normed_attention(config))), w, max_model_len)


def read_normed_attention(config: Fields) -> AttentionConfig:
    """What the configs of Qwen3 and its relatives say alike."""
    has_bias = config.flag("attention_bias", False)
    return replace(read_attention(config), has_head_norm=True, has_qkv_bias=has_bias, has_out_bias=has_bias)
