"""Which GGUF tensor is which Hugging Face tensor, and what its conversion to GGUF did to it.

Three things are done to weights on the way: the experts of a layer are stacked; for llama, the rows of q and k are
reordered so that rotary pairs lie side by side (Hugging Face keeps the halves of a head apart); for gemma3, 1 is added
to norm weights (Hugging Face's norm multiplies by 1 + weight). A ``Placement`` says how to undo them.
"""

import re
from typing import Any, NamedTuple

from quire.checkpoint.gguf import GGUFFile
from quire.core.errors import CorruptCheckpoint, UnsupportedModel


class Placement(NamedTuple):
    """Where a Hugging Face tensor comes from.

    ``permute_heads``: None, or H: rows are to be reordered within each of H heads, from r0 s0 r1 s1 ... to
    r0 r1 ... s0 s1 ...; with w [H * D, E] that is ``w.reshape(H, D // 2, 2, E).swapaxes(1, 2).reshape(H * D, E)``.
    ``offset``: to be added to every element, after dequantizing.
    ``expert``: None, or which matrix of a stack [experts, rows, columns] it is.
    """

    gguf_name: str
    permute_heads: int | None = None
    offset: float = 0.0
    expert: int | None = None


_OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_SANDWICH_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_ROUTER = {"ffn_gate_inp": "mlp.gate"}
_STACKS = {
    "ffn_gate_exps": "mlp.experts.{}.gate_proj",
    "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
}
"""What Hugging Face has a matrix of for each expert."""
_LAYERS = {
    "llama": _LAYER,
    "qwen2": _LAYER,
    "qwen3": _LAYER | _HEAD_NORMS,
    "qwen3moe": _LAYER | _HEAD_NORMS | _ROUTER | _STACKS,
    "gemma3": _LAYER | _HEAD_NORMS | _SANDWICH_NORMS,
}
_CONSUMED = {"rope_freqs.weight"}
"""Part of the config, not of the weights."""
_NAME = re.compile(r"(?:blk\.(?P<layer>0|[1-9][0-9]*)\.)?(?P<part>[a-z_]+)\.(?P<kind>weight|bias)")


def placements(gguf: GGUFFile, config: dict[str, Any]) -> dict[str, Placement]:
    """Every Hugging Face name that the file has a tensor for.

    ``config`` is the checkpoint's, for the numbers of layers and heads. Raises UnsupportedModel for a tensor without
    a place, so none is left out silently.
    """
    arch = gguf.metadata.get("general.architecture")
    if not isinstance(arch, str) or arch not in _LAYERS:
        raise UnsupportedModel(f"{gguf.path} is of architecture {arch!r}; {', '.join(_LAYERS)} are supported.")
    placed: dict[str, Placement] = {}
    for name in gguf.tensors:
        if name in _CONSUMED:
            continue
        hf_name = _hugging_face_name(name, _LAYERS[arch], config["num_hidden_layers"])
        if hf_name is None:
            raise UnsupportedModel(f"{gguf.path}: tensor {name!r} has no place in the {arch} architecture.")
        placement = Placement(name, _heads(name, arch, config), _offset(name, arch))
        if "{}" in hf_name:
            placed |= _unstacked(gguf, placement, hf_name, config["num_experts"])
        else:
            placed[hf_name] = placement
    return placed


def _unstacked(gguf: GGUFFile, stack: Placement, hf_name: str, num_experts: int) -> dict[str, Placement]:
    shape = gguf.tensors[stack.gguf_name].shape
    if len(shape) != 3 or shape[0] != num_experts:
        raise CorruptCheckpoint(
            f"{gguf.path}: tensor {stack.gguf_name!r} has shape {list(shape)}, not a matrix for each of {num_experts} "
            "experts. Fetch or convert it again."
        )
    return {hf_name.format(expert): stack._replace(expert=expert) for expert in range(num_experts)}


def _hugging_face_name(name: str, layer_names: dict[str, str], num_layers: int) -> str | None:
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    layer, part, kind = match["layer"], match["part"], match["kind"]
    if layer is None:
        return f"{_OUTER[part]}.{kind}" if part in _OUTER else None
    if part not in layer_names or int(layer) >= num_layers:
        return None
    return f"model.layers.{layer}.{layer_names[part]}.{kind}"


def _heads(name: str, arch: str, config: dict[str, Any]) -> int | None:
    if arch != "llama":
        return None
    if ".attn_q." in name:
        return int(config["num_attention_heads"])
    return int(config["num_key_value_heads"]) if ".attn_k." in name else None


def _offset(name: str, arch: str) -> float:
    return -1.0 if arch == "gemma3" and name.endswith("norm.weight") else 0.0
