"""The models whose shapes are measured, as the config.json that their checkpoints have; and small ones of each kind.

A folder with such a file alone is a checkpoint for ``--load-format dummy``.
"""

import json
from pathlib import Path
from typing import Any

LLAMA_8B: dict[str, Any] = dict(
    architectures=["LlamaForCausalLM"],
    model_type="llama",
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=128256,
    max_position_embeddings=131072,
    rms_norm_eps=1e-5,
    rope_theta=500000.0,
    rope_scaling=dict(
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    ),
    hidden_act="silu",
    tie_word_embeddings=False,
    attention_bias=False,
    mlp_bias=False,
    torch_dtype="bfloat16",
    bos_token_id=128000,
    eos_token_id=128001,
)

QWEN_30B_A3B: dict[str, Any] = dict(
    architectures=["Qwen3MoeForCausalLM"],
    model_type="qwen3_moe",
    hidden_size=2048,
    intermediate_size=6144,
    num_hidden_layers=48,
    num_attention_heads=32,
    num_key_value_heads=4,
    head_dim=128,
    vocab_size=151936,
    max_position_embeddings=40960,
    rms_norm_eps=1e-6,
    rope_theta=1000000.0,
    hidden_act="silu",
    tie_word_embeddings=False,
    attention_bias=False,
    num_experts=128,
    num_experts_per_tok=8,
    moe_intermediate_size=768,
    norm_topk_prob=True,
    decoder_sparse_step=1,
    mlp_only_layers=[],
    use_sliding_window=False,
    torch_dtype="bfloat16",
    bos_token_id=151643,
    eos_token_id=151645,
)

_TINY_SIZES: dict[str, Any] = dict(
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    vocab_size=512,
    max_position_embeddings=4096,
    bos_token_id=1,
    eos_token_id=2,
)
_TINY_EXPERTS: dict[str, Any] = dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=128)


def fp8(config: dict[str, Any]) -> dict[str, Any]:
    """The same with weights in e4m3 and scales for blocks of 128 x 128, as such checkpoints say it."""
    rule = dict(quant_method="fp8", fmt="e4m3", activation_scheme="dynamic", weight_block_size=[128, 128])
    return config | dict(quantization_config=rule | dict(modules_to_not_convert=["lm_head"]))


def tiny(config: dict[str, Any]) -> dict[str, Any]:
    """A model of the same kind that any machine runs at once."""
    return config | _TINY_SIZES | (_TINY_EXPERTS if "num_experts" in config else {})


MODELS: dict[str, dict[str, Any]] = {
    "llama-8b-bf16": LLAMA_8B,
    "llama-8b-fp8": fp8(LLAMA_8B),
    "qwen3-30b-a3b-bf16": QWEN_30B_A3B,
    "qwen3-30b-a3b-fp8": fp8(QWEN_30B_A3B),
}


def write(folder: Path, config: dict[str, Any]) -> Path:
    """Make ``folder`` a checkpoint without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder
