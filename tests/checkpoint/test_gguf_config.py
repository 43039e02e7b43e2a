"""Config and tensor names written from GGUF metadata are those that transformers reads from the same file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from quire.checkpoint.checkpoint import open_checkpoint
from quire.checkpoint.gguf_config import llama3_factors
from quire.checkpoint.gguf_names import Placement, placements
from quire.core.errors import CorruptCheckpoint, UnsupportedModel

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FORWARD, LAYERS, VOCAB = 32, 4, 2, 16, 48, 2, 40
NAMES = {"llama": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3", "gemma3": "GEMMA3"}

Tweak = Callable[[gguf.GGUFWriter], None]


def write_model(path: Path, arch: str, *, tied: bool = False, tweak: Tweak | None = None, layers: int = LAYERS) -> Path:
    """A model of random float32 weights. qwen2 has biases on q, k, v; qwen3 and gemma3 norms on q and k."""
    writer = gguf.GGUFWriter(path, arch)
    head_dim = HIDDEN // HEADS if arch in ("llama", "qwen2") else HEAD_DIM
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(500_000.0)
    writer.add_name("tiny")
    if arch == "llama":
        writer.add_rope_dimension_count(head_dim)
    if head_dim == HEAD_DIM:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if arch == "gemma3":
        writer.add_sliding_window(8)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{token}" for token in range(VOCAB)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if tweak:
        tweak(writer)
    for name, shape in shapes(arch, head_dim, layers).items():
        if name == "output.weight" and tied:
            continue
        seed = sum(map(ord, name))
        writer.add_tensor(name, np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def shapes(arch: str, head_dim: int, layers: int) -> dict[str, tuple[int, ...]]:
    queries, keys = HEADS * head_dim, KV_HEADS * head_dim
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (VOCAB, HIDDEN), "output_norm.weight": (HIDDEN,)}
    found["output.weight"] = (VOCAB, HIDDEN)
    for layer in range(layers):
        part: dict[str, tuple[int, ...]] = {
            "attn_norm.weight": (HIDDEN,),
            "attn_q.weight": (queries, HIDDEN),
            "attn_k.weight": (keys, HIDDEN),
            "attn_v.weight": (keys, HIDDEN),
            "attn_output.weight": (HIDDEN, queries),
            "ffn_norm.weight": (HIDDEN,),
            "ffn_gate.weight": (FORWARD, HIDDEN),
            "ffn_up.weight": (FORWARD, HIDDEN),
            "ffn_down.weight": (HIDDEN, FORWARD),
        }
        if arch == "qwen2":
            part |= {"attn_q.bias": (queries,), "attn_k.bias": (keys,), "attn_v.bias": (keys,)}
        if arch in ("qwen3", "gemma3"):
            part |= {"attn_q_norm.weight": (head_dim,), "attn_k_norm.weight": (head_dim,)}
        if arch == "gemma3":
            part |= {"post_attention_norm.weight": (HIDDEN,), "post_ffw_norm.weight": (HIDDEN,)}
        found |= {f"blk.{layer}.{name}": shape for name, shape in part.items()}
    return found


def placed(checkpoint: Any) -> dict[str, np.ndarray]:
    """Every Hugging Face tensor, conversions undone as the placements say."""
    tensors = {}
    for name, place in placements(checkpoint.gguf, checkpoint.config).items():
        shape = checkpoint.gguf.tensors[place.gguf_name].shape
        value = checkpoint.gguf.data(place.gguf_name).view("<f4").reshape(shape) + np.float32(place.offset)
        if place.permute_heads:
            heads = place.permute_heads
            value = value.reshape(heads, shape[0] // heads // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
        tensors[name] = value
    return tensors


def loaded_by_transformers(transformers: Any, path: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """A model of our configuration, and the file's tensors as transformers would give them to it."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = transformers.AutoConfig.for_model(**open_checkpoint(path).config)
    model = transformers.AutoModelForCausalLM.from_config(config)
    tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    return model, {name: tensor.numpy() for name, tensor in tensors.items()}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("arch", list(NAMES))
def test_weights_and_config_equal_transformers(tmp_path: Path, arch: str, tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    path = write_model(tmp_path / "model.gguf", arch, tied=tied)
    theirs, expected = loaded_by_transformers(transformers, path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.config["tie_word_embeddings"] is tied
    ours = placed(checkpoint)
    if tied:
        assert "lm_head.weight" not in ours
        expected["lm_head.weight"] = ours["lm_head.weight"] = ours["model.embed_tokens.weight"]
    assert set(ours) == set(expected) == set(theirs.state_dict())
    for name, value in expected.items():
        assert ours[name].shape == theirs.state_dict()[name].shape, name
        assert np.array_equal(ours[name], value), name
    assert checkpoint.config["architectures"] == [type(theirs).__name__]
    read = transformers.AutoConfig.from_pretrained(tmp_path, gguf_file=path.name)
    # Their reader leaves out qwen3's head size, so that is not among these.
    for key in ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        assert checkpoint.config[key] == getattr(read, key)
    for key in ("num_key_value_heads", "max_position_embeddings", "eos_token_id", "bos_token_id"):
        assert checkpoint.config[key] == getattr(read, key)


@pytest.mark.parametrize("arch", list(NAMES))
def test_transformers_takes_the_config(tmp_path: Path, arch: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = open_checkpoint(write_model(tmp_path / "model.gguf", arch, layers=13)).config
    theirs = transformers.AutoConfig.for_model(**config)
    for key in ("head_dim", "vocab_size", "rms_norm_eps", "max_position_embeddings", "eos_token_id"):
        assert getattr(theirs, key, config[key]) == config[key]
    if arch == "gemma3":
        # Gemma 3's own rule, as transformers has it when nothing is said: every sixth layer sees everything.
        plain = transformers.Gemma3TextConfig(num_hidden_layers=13)
        assert config["layer_types"] == plain.layer_types == theirs.layer_types
        assert config["query_pre_attn_scalar"] == HEAD_DIM and config["sliding_window"] == 8
        assert theirs.rope_parameters["full_attention"]["rope_theta"] == 500_000.0
        assert theirs.rope_parameters["sliding_attention"]["rope_theta"] == 10_000.0
    else:
        assert theirs.rope_parameters["rope_theta"] == 500_000.0


@pytest.mark.parametrize("arch", list(NAMES))
def test_names_equal_the_gguf_package(tmp_path: Path, arch: str) -> None:
    checkpoint = open_checkpoint(write_model(tmp_path / "model.gguf", arch))
    assert checkpoint.gguf is not None
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, NAMES[arch]), LAYERS)
    for name, place in placements(checkpoint.gguf, checkpoint.config).items():
        assert names.get_name(name, try_suffixes=(".weight", ".bias")) == place.gguf_name


def test_only_llama_is_permuted_and_only_gemma_shifted(tmp_path: Path) -> None:
    for arch in NAMES:
        checkpoint = open_checkpoint(write_model(tmp_path / f"{arch}.gguf", arch))
        assert checkpoint.gguf is not None
        places = placements(checkpoint.gguf, checkpoint.config)
        permuted = {name: place.permute_heads for name, place in places.items() if place.permute_heads}
        shifted = {place.offset for name, place in places.items() if "norm" in name}
        assert shifted == ({-1.0} if arch == "gemma3" else {0.0})
        layer = "model.layers.1.self_attn."
        heads = {layer + "q_proj.weight": HEADS, layer + "k_proj.weight": KV_HEADS}
        assert {name: number for name, number in permuted.items() if ".1." in name} == (
            heads if arch == "llama" else {}
        )
        assert places["model.embed_tokens.weight"] == Placement("token_embd.weight")


def rope_scaling(path: Path, tweak: Tweak, arch: str = "qwen3") -> Any:
    return open_checkpoint(write_model(path / "model.gguf", arch, tweak=tweak)).config["rope_scaling"]


def test_rope_scaling(tmp_path: Path) -> None:
    def linear(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(8.0)

    def yarn(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(32768)
        writer.add_rope_scaling_yarn_beta_fast(16.0)

    def longrope(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)

    assert rope_scaling(tmp_path, lambda writer: None) is None
    assert rope_scaling(tmp_path, linear, "gemma3") == {"rope_type": "linear", "factor": 8.0}
    assert rope_scaling(tmp_path, yarn) == {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
        "beta_fast": 16.0,
    }
    with pytest.raises(UnsupportedModel, match="longrope"):
        rope_scaling(tmp_path, longrope)


def test_llama3_factors_equal_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 8192, "rope_theta": 500_000.0}
    config = transformers.LlamaConfig(head_dim=64, rope_parameters=scaling)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 500_000.0 ** (-np.arange(32) / 32)
    assert np.allclose(plain / llama3_factors(500_000.0, 32, 32.0), scaled.numpy(), rtol=1e-5)


def test_rope_factors(tmp_path: Path) -> None:
    half = HIDDEN // HEADS // 2

    def config(factors: np.ndarray) -> dict[str, Any]:
        add = lambda writer: writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))  # noqa: E731
        checkpoint = open_checkpoint(write_model(tmp_path / "model.gguf", "llama", tweak=add))
        assert checkpoint.gguf is not None
        assert not any("rope" in name for name in placements(checkpoint.gguf, checkpoint.config))
        return checkpoint.config

    llama3 = config(llama3_factors(500_000.0, half, 8.0))
    assert llama3["rope_scaling"]["rope_type"] == "llama3" and llama3["rope_scaling"]["factor"] == 8.0
    assert llama3["rope_scaling"]["original_max_position_embeddings"] == 8192
    assert "rope_factors" not in llama3
    assert config(np.ones(half))["rope_scaling"] is None
    other = config(np.linspace(1.0, 3.0, half))
    assert other["rope_scaling"] is None and np.allclose(other["rope_factors"], np.linspace(1, 3, half))
    with pytest.raises(CorruptCheckpoint, match="rope_freqs"):
        config(np.array([1.0, 2.0, np.nan, 1.0]))
    with pytest.raises(CorruptCheckpoint, match="rope_freqs"):
        config(np.ones(half + 1))


def test_generation_config_and_ends(tmp_path: Path) -> None:
    def tweak(writer: gguf.GGUFWriter) -> None:
        writer.add_eot_token_id(7)
        writer.add_chat_template("{{ messages }}")
        writer.add_float32("general.sampling.temp", 0.7)
        writer.add_int32("general.sampling.top_k", 20)

    checkpoint = open_checkpoint(write_model(tmp_path / "model.gguf", "qwen3", tweak=tweak))
    assert checkpoint.eos_token_ids == (2, 7)
    assert checkpoint.generation_config == {
        "bos_token_id": 1,
        "eos_token_id": [2, 7],
        "temperature": 0.7,
        "top_k": 20,
    }
    assert checkpoint.chat_template == "{{ messages }}"
    assert (checkpoint.format, checkpoint.weight_files) == ("gguf", [checkpoint.path])
    assert checkpoint.file("tokenizer.json") is None


def test_numbers_for_each_layer_must_agree(tmp_path: Path) -> None:
    def heads(*counts: int) -> Tweak:
        return lambda writer: (
            writer.kv_data[0].pop("qwen3.attention.head_count_kv")
            and writer.add_array("qwen3.attention.head_count_kv", counts)
        )

    same = open_checkpoint(write_model(tmp_path / "same.gguf", "qwen3", tweak=heads(2, 2)))
    assert same.config["num_key_value_heads"] == 2
    with pytest.raises(UnsupportedModel, match="differs from layer to layer"):
        _ = open_checkpoint(write_model(tmp_path / "other.gguf", "qwen3", tweak=heads(2, 4))).config


@pytest.mark.parametrize(
    ("add", "kind", "message"),
    [
        (lambda writer: writer.add_expert_count(8), UnsupportedModel, "experts"),
        (lambda writer: writer.add_uint32("qwen3.rope.dimension_count", 8), UnsupportedModel, "dimension_count"),
        (lambda writer: writer.add_string("qwen3.rope.scaling.type", "spiral"), UnsupportedModel, "spiral"),
        (lambda writer: writer.add_uint32("qwen3.rope.scaling.type", 3), CorruptCheckpoint, "not a text"),
        (lambda writer: writer.kv_data[0].pop("qwen3.block_count"), CorruptCheckpoint, "block_count is None"),
        (lambda writer: writer.kv_data[0].pop("qwen3.attention.head_count"), CorruptCheckpoint, "head_count"),
    ],
)
def test_what_the_config_cannot_say(
    tmp_path: Path, add: Callable[[gguf.GGUFWriter], None], kind: type[Exception], message: str
) -> None:
    path = write_model(tmp_path / "model.gguf", "qwen3", tweak=add)
    with pytest.raises(kind, match=message):
        _ = open_checkpoint(path).config


def test_other_architectures_are_named(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", "mamba")
    with pytest.raises(UnsupportedModel, match=r"'mamba'.*llama, qwen2, qwen3, qwen3moe, gemma3"):
        _ = open_checkpoint(path).config


def test_a_tensor_without_a_place_is_named(tmp_path: Path) -> None:
    for extra in ("blk.0.attn_q_norm.weight", "blk.2.attn_q.weight", "blk.00.attn_q.weight", "v.patch_embd.weight"):
        add = lambda writer, name=extra: writer.add_tensor(name, np.zeros(4, np.float32))  # noqa: E731
        checkpoint = open_checkpoint(write_model(tmp_path / "model.gguf", "llama", tweak=add))
        assert checkpoint.gguf is not None
        with pytest.raises(UnsupportedModel, match=extra):
            placements(checkpoint.gguf, checkpoint.config)


def test_a_split_file_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", "llama", tweak=lambda writer: writer.add_uint16("split.count", 3))
    with pytest.raises(UnsupportedModel, match=r"one of 3 files.*merge"):
        open_checkpoint(path)
