"""Writes, from a GGUF file's metadata, the config.json that Hugging Face would have for the same model.

GGUF leaves unsaid what llama.cpp fixes in code for an architecture (activation, local rope base, which layers slide);
those facts are stated here, one function an architecture. Sources: the GGUF specification, the architectures'
published configurations.
"""

import math
from collections.abc import Callable
from types import NoneType
from typing import Any

import numpy as np

from quire.checkpoint.gguf import GGUFFile
from quire.checkpoint.limits import MAX_EXPERTS, MAX_LAYERS
from quire.core.errors import CorruptCheckpoint, UnsupportedModel

Config = dict[str, Any]

_MIXTURES = ("qwen3moe",)
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""All published llama3 rope scalings share these and differ in the factor."""


def hugging_face_config(gguf: GGUFFile) -> Config:
    """The config of one of the architectures in ``ARCHITECTURES``; raises UnsupportedModel for others."""
    arch = gguf.metadata.get("general.architecture")
    if not isinstance(arch, str) or arch not in ARCHITECTURES:
        raise UnsupportedModel(
            f"{gguf.path} is of architecture {arch!r}; GGUF files of {', '.join(ARCHITECTURES)} are supported."
        )
    facts = _Facts(gguf, arch)
    return _shared(facts) | ARCHITECTURES[arch](facts)


def hugging_face_generation_config(gguf: GGUFFile) -> Config:
    """Special token ids (all that end a turn, as a list) and the sampling defaults that the file recommends."""
    ends = [_token(gguf, name) for name in ("eos", "eot", "eom")]
    found: Config = {
        "bos_token_id": _token(gguf, "bos"),
        "eos_token_id": list(dict.fromkeys(token for token in ends if token is not None)) or None,
        "pad_token_id": _token(gguf, "padding"),
    }
    for theirs, ours in _SAMPLING.items():
        value = gguf.metadata.get(f"general.sampling.{theirs}")
        if type(value) not in (int, float, NoneType):
            raise CorruptCheckpoint(f"{gguf.path}: general.sampling.{theirs} is {value!r:.100}, not a number.")
        found[ours] = shortest(value) if isinstance(value, float) else value
    return {name: value for name, value in found.items() if value is not None}


_SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}


def _token(gguf: GGUFFile, name: str) -> int | None:
    value = gguf.metadata.get(f"tokenizer.ggml.{name}_token_id")
    if value is not None and type(value) is not int:
        raise CorruptCheckpoint(f"{gguf.path}: tokenizer.ggml.{name}_token_id is {value!r:.100}, not a token id.")
    return value


def shortest(value: float) -> float:
    """The shortest decimal that float32 rounds to ``value``: 1e-05 for 9.999999747378752e-06."""
    return float(str(np.float32(value)))


class _Facts:
    """Metadata of one architecture, checked as it is asked for."""

    def __init__(self, gguf: GGUFFile, arch: str) -> None:
        self.gguf = gguf
        self.arch = arch

    def corrupt(self, what: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(f"{self.gguf.path}: {what}. Fetch or convert it again.")

    def unsupported(self, what: str) -> UnsupportedModel:
        return UnsupportedModel(f"{self.gguf.path}: {what}, which is not implemented.")

    def get(self, key: str) -> Any:
        return self.gguf.metadata.get(f"{self.arch}.{key}")

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1; a list of one number for each layer must hold it throughout."""
        value = self.get(key)
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
            value = value[0].item()
        elif isinstance(value, np.ndarray):
            raise self.unsupported(f"{self.arch}.{key} differs from layer to layer")
        value = default if value is None else value
        if type(value) is not int or not 1 <= value < 2**31:
            raise self.corrupt(f"{self.arch}.{key} is {value!r:.100}, not a number of at least 1")
        return value

    def optional_count(self, key: str) -> int:
        """The same, or 0 where the file says 0 or nothing."""
        return 0 if type(self.get(key)) in (int, NoneType) and not self.get(key) else self.count(key)

    def text(self, key: str) -> str | None:
        value = self.get(key)
        if value is not None and not isinstance(value, str):
            raise self.corrupt(f"{self.arch}.{key} is {value!r:.100}, not a text")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A finite number above 0."""
        value = self.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e38:
            raise self.corrupt(f"{self.arch}.{key} is {value!r:.100}, not a number above 0")
        return shortest(value)

    def has(self, tensor: str) -> bool:
        return tensor in self.gguf.tensors


def _shared(facts: _Facts) -> Config:
    """What all architectures have."""
    embedding = facts.gguf.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise facts.corrupt("it has no token_embd.weight of two dimensions")
    hidden, heads, layers = (facts.count(key) for key in ("embedding_length", "attention.head_count", "block_count"))
    if embedding.shape[1] != hidden:
        raise facts.corrupt(f"token_embd.weight is {embedding.shape[1]} wide, but embedding_length is {hidden}")
    if layers > MAX_LAYERS:
        raise facts.corrupt(f"{facts.arch}.block_count is {layers}, more than {MAX_LAYERS}")
    if facts.optional_count("expert_count") and facts.arch not in _MIXTURES:
        raise facts.unsupported("it is a mixture of experts")
    if (facts.get("attention.key_length") is None) and hidden % heads:
        raise facts.corrupt(f"embedding_length {hidden} does not divide into {heads} heads")
    head_dim = facts.count("attention.key_length", hidden // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if facts.count(key, head_dim) != head_dim:
            raise facts.unsupported(f"{facts.arch}.{key} is {facts.get(key)}, other than the heads' {head_dim}")
    kv_heads = facts.count("attention.head_count_kv", heads)
    if heads % kv_heads:
        raise facts.corrupt(f"{heads} heads cannot share {kv_heads} kv heads")
    special = {f"{name[:3]}_token_id": _token(facts.gguf, name) for name in ("bos", "eos", "padding")}
    return {
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": facts.count("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": facts.count("context_length"),
        "rms_norm_eps": facts.real("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": not facts.has("output.weight"),
        **{name: value for name, value in special.items() if value is not None},
        **_rope(facts, head_dim),
    }


def _rope(facts: _Facts, head_dim: int) -> Config:
    theta = facts.real("rope.freq_base", 10_000.0)
    rope: Config = {"rope_theta": theta, "rope_scaling": _scaling(facts)}
    if facts.has("rope_freqs.weight"):
        if rope["rope_scaling"] is not None:
            raise facts.unsupported("it has both rope_freqs.weight and rope scaling metadata")
        rope |= _scaling_of_factors(_rope_factors(facts, head_dim), theta)
    return rope


def _scaling(facts: _Facts) -> Config | None:
    kind = facts.text("rope.scaling.type")
    if kind is None and facts.get("rope.scale_linear") is not None:
        return {"rope_type": "linear", "factor": facts.real("rope.scale_linear")}
    if kind in (None, "none"):
        return None
    if kind not in ("linear", "yarn"):
        raise facts.unsupported(f"{facts.arch}.rope.scaling.type is {kind!r}")
    factor = facts.real("rope.scaling.factor")
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    scaling: Config = {"rope_type": "yarn", "factor": factor}
    if original := facts.optional_count("rope.scaling.original_context_length"):
        scaling["original_max_position_embeddings"] = original
    for key in ("beta_fast", "beta_slow"):
        if facts.get(f"rope.scaling.yarn_{key}") is not None:
            scaling[key] = facts.real(f"rope.scaling.yarn_{key}")
    # llama.cpp multiplies yarn's own attention factor; Hugging Face's attention_factor takes its place.
    name = next((k for k in ("attn_factor", "yarn_attn_factor") if facts.get(f"rope.scaling.{k}") is not None), None)
    if name is not None:
        scaling["attention_factor"] = facts.real(f"rope.scaling.{name}") * (0.1 * math.log(max(factor, 1.0)) + 1.0)
    return scaling


def _rope_factors(facts: _Facts, head_dim: int) -> np.ndarray:
    """[D/2] float64: what each rotation frequency is divided by."""
    tensor = facts.gguf.tensors["rope_freqs.weight"]
    if tensor.type != "F32" or tensor.shape != (head_dim // 2,):
        raise facts.corrupt(f"rope_freqs.weight is {tensor.type} {list(tensor.shape)}, not F32 [{head_dim // 2}]")
    factors = facts.gguf.data("rope_freqs.weight").view("<f4").reshape(-1).astype(np.float64)
    if not np.isfinite(factors).all() or (factors <= 0).any():
        raise facts.corrupt("rope_freqs.weight holds a factor that is not a number above 0")
    return factors


def _scaling_of_factors(factors: np.ndarray, theta: float) -> Config:
    """The llama3 scaling that gives these factors; if none does, the factors themselves as ``rope_factors``."""
    factor = shortest(factors.max())
    if (factors == 1.0).all():
        return {}
    if np.allclose(llama3_factors(theta, len(factors), factor), factors, rtol=1e-4):
        return {"rope_scaling": {"rope_type": "llama3", "factor": factor} | _LLAMA3}
    return {"rope_factors": factors.tolist()}


def llama3_factors(theta: float, num_frequencies: int, factor: float) -> np.ndarray:
    """[num_frequencies] float64: what llama3 rope scaling divides each frequency by.

    Long waves by ``factor``, short ones by 1, those between by what blends the two frequencies linearly.
    """
    low, high, original = (_LLAMA3[name] for name in _LLAMA3)
    wavelengths = 2 * np.pi * theta ** (np.arange(num_frequencies) / num_frequencies)
    smooth = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - smooth) / factor + smooth))


def _llama(facts: _Facts) -> Config:
    window = facts.optional_count("attention.sliding_window")
    mistral = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": window}
    llama = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    biases = {"attention_bias": facts.has("blk.0.attn_q.bias"), "mlp_bias": facts.has("blk.0.ffn_up.bias")}
    return (mistral if window else llama) | biases | {"hidden_act": "silu"}


def _qwen2(facts: _Facts) -> Config:
    return {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu"}


def _qwen3(facts: _Facts) -> Config:
    bias = facts.has("blk.0.attn_q.bias")
    return {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "attention_bias": bias}


def _qwen3moe(facts: _Facts) -> Config:
    num_experts = facts.count("expert_count")
    if num_experts > MAX_EXPERTS:
        raise facts.corrupt(f"{facts.arch}.expert_count is {num_experts}, more than {MAX_EXPERTS}")
    return _qwen3(facts) | {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_experts": num_experts,
        "num_experts_per_tok": facts.count("expert_used_count"),
        "moe_intermediate_size": facts.count("expert_feed_forward_length"),
        "norm_topk_prob": True,
    }


def _gemma3(facts: _Facts) -> Config:
    heads, head_dim = facts.count("attention.head_count"), facts.count("attention.key_length", 256)
    hidden, layers = facts.count("embedding_length"), facts.count("block_count")
    # The 27B model, the one of 62 layers, scales queries by the width over the heads instead of the heads' size.
    query_scalar = hidden // heads if layers == 62 else head_dim
    pattern = facts.count("attention.sliding_window_pattern", 6)
    kinds = ["sliding_attention" if (layer + 1) % pattern else "full_attention" for layer in range(layers)]
    softcap = facts.get("final_logit_softcapping")
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "head_dim": head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": query_scalar,
        "sliding_window": facts.count("attention.sliding_window"),
        "sliding_window_pattern": pattern,
        "layer_types": kinds,
        "rope_theta": facts.real("rope.freq_base", 1_000_000.0),
        "rope_local_base_freq": facts.real("rope.freq_base_swa", 10_000.0),
        "attention_bias": False,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None if softcap is None else facts.real("final_logit_softcapping"),
    }


ARCHITECTURES: dict[str, Callable[[_Facts], Config]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3moe": _qwen3moe,
    "gemma3": _gemma3,
}
