"""Write a Llama folder in bfloat16 as a GGUF file. Runs in the transformers peer's environment.

    python -m benchmarks.peers.prepare.llama_gguf FOLDER WORDS.gguf FILE.gguf

The vocabulary is WORDS.gguf's, filled up to the folder's size. GGUF stores the rows of each query and key head with
even and odd ones interleaved (its rotation turns neighbours); they are put in that order here.
"""

import sys
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, PretrainedConfig

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def name_of(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def interleave(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    rows, columns = weight.shape
    return weight.view(num_heads, 2, rows // num_heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def write_config(writer: gguf.GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)


def write_words(writer: gguf.GGUFWriter, words: gguf.GGUFReader, size: int) -> None:
    def field(name: str) -> Any:
        return words.fields[f"tokenizer.ggml.{name}"].contents()

    tokens, types = list(field("tokens")), list(field("token_type"))
    missing = range(len(tokens), size)
    writer.add_tokenizer_model(field("model"))
    writer.add_tokenizer_pre(field("pre"))
    writer.add_token_list(tokens + [f"[PAD{i}]" for i in missing])
    writer.add_token_types(types + [int(gguf.TokenType.UNUSED)] * len(missing))
    writer.add_token_merges(field("merges"))
    writer.add_bos_token_id(field("bos_token_id"))
    writer.add_eos_token_id(field("eos_token_id"))


def main() -> None:
    folder, words, target = map(Path, sys.argv[1:])
    config = AutoConfig.from_pretrained(folder)
    writer = gguf.GGUFWriter(target, "llama")
    write_config(writer, config)
    write_words(writer, gguf.GGUFReader(words), config.vocab_size)
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            if "q_proj" in name:
                tensor = interleave(tensor, config.num_attention_heads)
            if "k_proj" in name:
                tensor = interleave(tensor, config.num_key_value_heads)
            if tensor.ndim == 1:
                writer.add_tensor(name_of(name), tensor.float().numpy())
                continue
            bits = tensor.contiguous().view(torch.uint8).numpy()
            writer.add_tensor(name_of(name), bits, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
