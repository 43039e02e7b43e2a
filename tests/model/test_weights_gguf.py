"""GGUF: under Hugging Face's names and in Hugging Face's layout, bit for bit what the gguf package reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from safetensors.torch import load_file
from torch import Tensor

from quire.checkpoint.checkpoint import open_checkpoint
from quire.checkpoint.gguf import GGUFFile
from quire.core.errors import CorruptCheckpoint, UnsupportedModel
from quire.model.families.registry import build
from quire.model.quantization.method import Side
from quire.model.quantization.plain import Plain
from quire.model.weights import source as source_module
from quire.model.weights.cursor import Cursor, Part
from quire.model.weights.gguf import GGUFSource
from quire.model.weights.shard import Group

HEADS, KV_HEADS, HEAD_DIM, HIDDEN = 4, 2, 16, 64
Q, KV = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
CONFIG = dict(num_hidden_layers=1, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS)
LAYER = "model.layers.0.self_attn"


def interleave(w: np.ndarray, heads: int) -> np.ndarray:
    """What conversion does to llama's q and k: the two halves of each head come to lie in turns."""
    halves = w.reshape(heads, 2, -1, *w.shape[1:])
    return np.stack((halves[:, 0], halves[:, 1]), axis=2).reshape(w.shape)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    """By Hugging Face name, in its layout."""
    draw = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        f"{LAYER}.q_proj.weight": (Q, HIDDEN),
        f"{LAYER}.k_proj.weight": (KV, HIDDEN),
        f"{LAYER}.v_proj.weight": (KV, HIDDEN),
        f"{LAYER}.q_proj.bias": (Q,),
        "model.layers.0.input_layernorm.weight": (HIDDEN,),
        "model.embed_tokens.weight": (10, HIDDEN),
    }
    return {name: draw.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


class Written:
    """A file and, by Hugging Face name, what must be read from it."""

    def __init__(self, path: Path, arch: str = "llama") -> None:
        self.path = path
        self.expected: dict[str, Tensor] = {}
        self._writer = gguf.GGUFWriter(path, arch)

    def add(self, name: str, hf_name: str, values: np.ndarray, kind: str, heads: int | None = None) -> None:
        stored = interleave(values, heads) if heads else values
        code = GGMLQuantizationType[kind]
        self._writer.add_tensor(name, quants.quantize(stored, code), raw_dtype=code)
        self.expected[hf_name] = torch.from_numpy(quants.dequantize(quants.quantize(values, code), code))

    def close(self) -> GGUFFile:
        self._writer.write_header_to_file()
        self._writer.write_kv_data_to_file()
        self._writer.write_tensors_to_file()
        self._writer.close()
        return GGUFFile(self.path)


@pytest.fixture(params=["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_1", "Q8_0"])
def llama(request: pytest.FixtureRequest, weights: dict[str, np.ndarray], tmp_path: Path) -> tuple[Written, GGUFFile]:
    """Rows keep their blocks when they change places, so what is expected is known exactly."""
    written = Written(tmp_path / "tiny.gguf")
    for name, hf_name, heads in (
        ("blk.0.attn_q.weight", f"{LAYER}.q_proj.weight", HEADS),
        ("blk.0.attn_k.weight", f"{LAYER}.k_proj.weight", KV_HEADS),
        ("blk.0.attn_v.weight", f"{LAYER}.v_proj.weight", None),
        ("token_embd.weight", "model.embed_tokens.weight", None),
    ):
        written.add(name, hf_name, weights[hf_name], request.param, heads)
    for name, hf_name, heads in (
        ("blk.0.attn_q.bias", f"{LAYER}.q_proj.bias", HEADS),
        ("blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight", None),
    ):
        written.add(name, hf_name, weights[hf_name], "F32", heads)
    return written, written.close()


def cursor(file: GGUFFile, group: Group | None = None, dtype: torch.dtype = torch.float32) -> Cursor:
    return Cursor(GGUFSource(file, CONFIG), dtype, torch.device("cpu"), Plain(), group or Group())


def test_everything_comes_as_the_oracle_reads_it(llama: tuple[Written, GGUFFile]) -> None:
    written, file = llama
    at = cursor(file)
    assert at.unread() == written.expected.keys()
    for name, expected in written.expected.items():
        assert torch.equal(at.pull(name, tuple(expected.shape)), expected), name
    assert at.unread() == set()
    half = cursor(file, dtype=torch.bfloat16)
    for name, expected in written.expected.items():
        assert torch.equal(half.pull(name, tuple(expected.shape)), expected.bfloat16()), name


def test_heads_are_in_hugging_face_s_order(llama: tuple[Written, GGUFFile], weights: dict[str, np.ndarray]) -> None:
    """Against the weights from before quantization: a wrong order would be far off."""
    name = f"{LAYER}.k_proj.weight"
    read = cursor(llama[1]).pull(name, (KV, HIDDEN))
    assert (read - torch.from_numpy(weights[name])).abs().max() < 0.05


@pytest.mark.parametrize("slab", [HIDDEN, 5 * HIDDEN, 1 << 20])
def test_each_rank_reads_its_heads(llama: tuple[Written, GGUFFile], slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "_SLAB", slab)
    monkeypatch.setattr(source_module, "_SLAB_ROWS", 1)
    written, file = llama
    q, k, v = (written.expected[f"{LAYER}.{name}_proj.weight"] for name in "qkv")
    for rank in range(2):
        at = cursor(file, Group(rank, 2)) / LAYER
        parts = [
            Part(at / "q_proj", Q, HIDDEN, HEADS),
            Part(at / "k_proj", KV, HIDDEN, KV_HEADS),
            Part(at / "v_proj", KV, HIDDEN, KV_HEADS),
        ]
        fused = Plain().load(parts, Side.OUT).weight
        assert torch.equal(fused, torch.cat([full.chunk(2)[rank] for full in (q, k, v)]))
        assert torch.equal(Plain().load(parts[:1], Side.IN).weight, q.chunk(2, dim=1)[rank])
        bias = (at / "q_proj").pull("bias", (Q,), cut=0, units=HEADS)
        assert torch.equal(bias, written.expected[f"{LAYER}.q_proj.bias"].chunk(2)[rank])


def test_what_gemma_s_norms_were_given_is_taken_off(tmp_path: Path) -> None:
    written = Written(tmp_path / "tiny.gguf", "gemma3")
    norm = np.linspace(-0.5, 0.5, HIDDEN, dtype=np.float32)
    written.add("output_norm.weight", "model.norm.weight", norm + 1, "F32")
    read = cursor(written.close()).pull("model.norm.weight", (HIDDEN,))
    torch.testing.assert_close(read, torch.from_numpy(norm), rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
def test_values_that_are_not_finite(tmp_path: Path, kind: str) -> None:
    written = Written(tmp_path / "tiny.gguf")
    values = np.ones((4, HIDDEN), np.float32)
    values[2, 3] = np.nan
    with np.errstate(invalid="ignore"):
        written.add("output.weight", "lm_head.weight", values, kind)
    with pytest.raises(CorruptCheckpoint, match=r"tiny\.gguf: tensor 'output.weight' .*not finite"):
        cursor(written.close()).pull("lm_head.weight", (4, HIDDEN))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("lm_head.weight", (4, HIDDEN + 1), r"tensor 'output.weight' .*shape \[4, 64\].*\[4, 65\]"),
        ("model.norm.weight", (HIDDEN,), r"tiny\.gguf holds no tensor for 'model.norm.weight'"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, name: str, shape: tuple[int, ...], message: str) -> None:
    written = Written(tmp_path / "tiny.gguf")
    written.add("output.weight", "lm_head.weight", np.ones((4, HIDDEN), np.float32), "Q4_0")
    with pytest.raises(CorruptCheckpoint, match=message):
        cursor(written.close()).pull(name, shape)


@pytest.mark.parametrize(
    ("name", "hf_name", "shape", "kind", "error"),
    [
        ("output_norm.weight", "model.norm.weight", (HIDDEN,), "Q8_0", UnsupportedModel),
        ("output.weight", "lm_head.weight", (2, 4, HIDDEN), "F32", UnsupportedModel),
        ("blk.0.attn_q.weight", f"{LAYER}.q_proj.weight", (HEADS * 3, HIDDEN), "F32", CorruptCheckpoint),
    ],
)
def test_layouts_that_cannot_be(
    tmp_path: Path, name: str, hf_name: str, shape: tuple[int, ...], kind: str, error: type[Exception]
) -> None:
    written = Written(tmp_path / "tiny.gguf")
    written.add(name, hf_name, np.ones(shape, np.float32), kind)
    with pytest.raises(error, match=f"tiny.gguf: tensor '{name}'"):
        cursor(written.close()).pull(hf_name, shape)


def test_weights_are_read_not_mapped(llama: tuple[Written, GGUFFile], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of a mapping would count as memory beside the weights."""
    written, file = llama
    dropped: list[bool] = []
    monkeypatch.setattr(GGUFFile, "drop_pages", lambda self: dropped.append(True))
    monkeypatch.delattr(GGUFFile, "data")
    at = cursor(file)
    name = "model.embed_tokens.weight"
    assert torch.equal(at.pull(name, (10, HIDDEN)), written.expected[name])
    at.source.close()
    assert dropped


def test_a_file_that_shrinks_while_it_is_read(llama: tuple[Written, GGUFFile]) -> None:
    written, file = llama
    at, name = cursor(file), "model.embed_tokens.weight"
    written.path.write_bytes(written.path.read_bytes()[: file.tensors["token_embd.weight"].offset + 5])
    with pytest.raises(CorruptCheckpoint, match=r"tiny\.gguf: tensor 'token_embd.weight' ends beyond the end"):
        at.pull(name, (10, HIDDEN))


def test_stacked_experts(random_checkpoint: Callable[..., Path], runner: Callable[..., Any], tmp_path: Path) -> None:
    """A model with experts says the same from either format, to the bit."""
    folder = random_checkpoint(
        "Qwen3Moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True
    )
    tensors, path = load_file(folder / "model.safetensors"), tmp_path / "experts.gguf"
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3MOE, 3)
    writer = gguf.GGUFWriter(path, "qwen3moe")
    writer.add_context_length(512)
    writer.add_embedding_length(96)
    writer.add_block_count(3)
    writer.add_feed_forward_length(128)
    writer.add_head_count(6)
    writer.add_head_count_kv(2)
    writer.add_key_length(16)
    writer.add_value_length(16)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_expert_count(4)
    writer.add_expert_used_count(2)
    writer.add_expert_feed_forward_length(32)
    for name in [name for name in tensors if ".experts." not in name]:
        stored = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(stored, tensors[name].numpy())
    for layer in range(3):
        for kind in ("gate", "up", "down"):
            experts = [tensors[f"model.layers.{layer}.mlp.experts.{i}.{kind}_proj.weight"] for i in range(4)]
            writer.add_tensor(f"blk.{layer}.ffn_{kind}_exps.weight", torch.stack(experts).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    checkpoint = open_checkpoint(path)
    assert checkpoint.gguf is not None
    source = GGUFSource(checkpoint.gguf, checkpoint.config)
    cursor = Cursor(source, torch.float32, torch.device("cpu"), Plain())
    theirs, ours = runner(folder), runner(folder)
    ours.model = build(checkpoint.config, cursor)
    assert cursor.unread() == set()
    tokens = list(range(6, 60))
    assert torch.equal(ours.step([(0, 0, tokens)])[0], theirs.step([(0, 0, tokens)])[0])
    with pytest.raises(CorruptCheckpoint, match=r"a matrix for each of 5 experts"):
        GGUFSource(checkpoint.gguf, checkpoint.config | {"num_experts": 5})
