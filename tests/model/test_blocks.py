"""A GGUF of many formats, kept in its blocks: what is held, and logits beside those of the expanded weights."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from torch import Tensor

from quire.checkpoint.gguf import GGUFFile
from quire.core.errors import CorruptCheckpoint
from quire.decoding.slots import SlotParameters
from quire.engine.worker.forward import Batch, EagerForward, Forward
from quire.engine.worker.recorded import RecordedForward
from quire.engine.worker.slot_tokens import HostTokens
from quire.kernels.cpu.library import Library, Pool, available
from quire.kernels.cpu.packing import Packer
from quire.kernels.ops.blocks import BLOCK_LAYOUTS, BlockMatrix
from quire.kernels.ops.dequantize import FORMATS, dequantize
from quire.kernels.ops.packed import PackedMatrix
from quire.model.attention.backend import kv_storage
from quire.model.attention.native import NativeAttention
from quire.model.attention.paged import PagedAttention
from quire.model.families.registry import build
from quire.model.quantization.blocks import Blocks, BlockTable, BlockWeight
from quire.model.quantization.method import Side
from quire.model.quantization.plain import Plain
from quire.model.weights.cursor import Cursor, Method, Part
from quire.model.weights.gguf import GGUFSource

pytestmark = pytest.mark.native

CPU = torch.device("cpu")
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FEED, VOCAB = 256, 4, 2, 64, 512, 300
CONFIG: dict[str, Any] = dict(
    architectures=["LlamaForCausalLM"],
    model_type="llama",
    hidden_size=HIDDEN,
    intermediate_size=FEED,
    num_hidden_layers=2,
    num_attention_heads=HEADS,
    num_key_value_heads=KV_HEADS,
    head_dim=HEAD_DIM,
    vocab_size=VOCAB,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    rope_theta=10_000.0,
    hidden_act="silu",
    tie_word_embeddings=False,
)
BLOCK_SIZE = 16
TOKENS = [(37 * i + 11) % VOCAB for i in range(40)]

SHAPES = {
    "attn_q": (HEADS * HEAD_DIM, HIDDEN),
    "attn_k": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_v": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_output": (HIDDEN, HEADS * HEAD_DIM),
    "ffn_gate": (FEED, HIDDEN),
    "ffn_up": (FEED, HIDDEN),
    "ffn_down": (HIDDEN, FEED),
}
TYPES = (
    ("Q5_0", "Q5_0", "Q8_0", "F16", "Q4_K", "Q4_K", "Q6_K"),
    ("Q4_0", "Q4_1", "Q5_1", "Q2_K", "Q3_K", "Q5_K", "F32"),
)
"""Of each layer's matrices, in the order of SHAPES."""


def stored(block_type: str, shape: tuple[int, int], draw: np.random.Generator) -> np.ndarray:
    """Random rows of about a linear's usual size: floats, or blocks as [rows, bytes] uint8."""
    size = shape[1] ** -0.5
    if block_type not in BLOCK_LAYOUTS:
        return draw.normal(0, size, shape).astype(np.float16 if block_type == "F16" else np.float32)
    form, places = FORMATS[block_type], BLOCK_LAYOUTS[block_type].factors
    blocks = draw.integers(0, 256, (shape[0], shape[1] // form.num_values, form.num_bytes), dtype=np.uint8)
    factors = draw.normal(0, 0.01, (len(places), *blocks.shape[:2], 1))
    values = torch.empty(shape)
    for scale in (1.0, None):
        scale = scale or size / values.std().item()
        for at, factor in zip(places, factors, strict=True):
            blocks[..., at : at + 2] = (factor * scale).astype(np.float16).view(np.uint8)
        dequantize(torch.from_numpy(blocks.reshape(shape[0], -1)), block_type, values)
    return blocks.reshape(shape[0], -1)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "mixed.gguf"
    writer, draw = gguf.GGUFWriter(path, "llama"), np.random.default_rng(0)

    def add(name: str, block_type: str, shape: tuple[int, int]) -> None:
        writer.add_tensor(name, stored(block_type, shape, draw), raw_dtype=GGMLQuantizationType[block_type])

    add("token_embd.weight", "Q8_0", (VOCAB, HIDDEN))
    add("output.weight", "Q6_K", (VOCAB, HIDDEN))
    for layer, types in enumerate(TYPES):
        for (part, shape), block_type in zip(SHAPES.items(), types, strict=True):
            add(f"blk.{layer}.{part}.weight", block_type, shape)
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(HIDDEN, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(params=[1, 2], ids=lambda count: f"{count} threads")
def packer(request: pytest.FixtureRequest) -> Packer:
    library: Library = available()[0]
    return Packer(library, Pool(library, request.param))


def cursor(path: Path, method: Method, dtype: torch.dtype = torch.float32) -> Cursor:
    return Cursor(GGUFSource(GGUFFile(path), CONFIG), dtype, CPU, method)


def logits(forward: Forward, pieces: list[int]) -> Tensor:
    """Of every token of TOKENS, given in pieces of these lengths."""
    table, found, done = np.arange(4, dtype=np.int32)[None], [], 0
    for count in pieces:
        tokens, positions = np.array(TOKENS[done : done + count]), np.arange(done, done + count)
        starts, counts = np.array([done], np.int32), np.array([count], np.int32)
        forward.run(Batch(tokens, positions, starts, counts, table, np.arange(count)))
        found.append(forward.logits(np.arange(count)).clone())
        done += count
    return torch.cat(found)


def native(path: Path, packer: Packer, dtype: torch.dtype) -> Forward:
    attention = NativeAttention(BLOCK_SIZE, max_tokens=64, max_seqs=2, max_blocks=8)
    at = cursor(path, Blocks(packer), dtype)
    model = build(CONFIG, at)
    assert not at.unread()
    kv = kv_storage(attention, model.kv_specs, 8, dtype, CPU)
    tokens, parameters = HostTokens(2, 8 * BLOCK_SIZE, 8), SlotParameters(2, model.vocab_size)
    return RecordedForward(model, kv, attention, tokens, parameters, packer.library, packer.pool, max_rows=64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_logits_are_near_those_of_expanded_weights(path: Path, packer: Packer, dtype: torch.dtype) -> None:
    """Inputs of products are rounded, most to 8 bits: a per cent of the logits' size after two layers."""
    attention = PagedAttention(BLOCK_SIZE, CPU)
    model = build(CONFIG, cursor(path, Plain()))
    eager = EagerForward(model, kv_storage(attention, model.kv_specs, 8, torch.float32, CPU), attention, CPU)
    expected = logits(eager, [40])
    forward = native(path, packer, dtype)
    found = logits(forward, [40])
    assert (found - expected).norm() < (0.02 if dtype == torch.float32 else 0.03) * expected.norm()
    assert torch.equal(logits(forward, [1, 7, 31, 1]), found)


def test_a_linear_holds_what_its_file_holds(path: Path, packer: Packer) -> None:
    at = cursor(path, Blocks(packer)) / "model.layers.0"
    attention = at / "self_attn"
    heads = {"q_proj": HEADS, "k_proj": KV_HEADS, "v_proj": KV_HEADS}
    weight = at.method.load(
        [Part(attention / name, count * HEAD_DIM, HIDDEN, count) for name, count in heads.items()], Side.OUT
    )
    assert isinstance(weight, BlockWeight)
    assert [matrix.num_out for matrix in weight.matrices] == [HIDDEN + 128, 128]  # q and k are of one format
    held = [matrix for matrix in weight.matrices if isinstance(matrix, BlockMatrix)]
    assert [matrix.block_type for matrix in held] == ["Q5_0", "Q8_0"]
    assert [matrix.data.numel() for matrix in held] == [384 * HIDDEN // 32 * 22, 128 * HIDDEN // 32 * 34]
    expanded = cursor(path, Plain()) / "model.layers.0" / "self_attn"
    for name, values in zip(heads, torch.cat([matrix.unpack() for matrix in held]).split([256, 128, 128]), strict=True):
        assert torch.equal(values, expanded.pull(f"{name}.weight", tuple(values.shape)))
    plain = at.method.load([Part(attention / "o_proj", HIDDEN, HEADS * HEAD_DIM, HEADS)], Side.IN)
    assert isinstance(plain, BlockWeight)
    assert isinstance(plain.matrices[0], PackedMatrix)


def test_a_table_in_blocks(path: Path, packer: Packer) -> None:
    at = cursor(path, Blocks(packer), torch.bfloat16)
    table = at.method.table(Part(at / "model" / "embed_tokens", VOCAB, HIDDEN))
    assert isinstance(table, BlockTable)
    assert table.matrix.block_type == "Q8_0"
    expanded = cursor(path, Plain()).pull("model.embed_tokens.weight", (VOCAB, HIDDEN))
    assert torch.equal(table.matrix.unpack(), expanded)


@pytest.mark.parametrize("block_type", BLOCK_LAYOUTS)
def test_a_factor_that_is_not_finite(tmp_path: Path, packer: Packer, block_type: str) -> None:
    path = tmp_path / "broken.gguf"
    rows = stored(block_type, (8, 256), np.random.default_rng(0))
    at = BLOCK_LAYOUTS[block_type].factors[-1]
    rows[5, at : at + 2] = np.array([np.inf], np.float16).view(np.uint8)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("output.weight", rows, raw_dtype=GGMLQuantizationType[block_type])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    at_head = cursor(path, Blocks(packer)) / "lm_head"
    with pytest.raises(CorruptCheckpoint, match=r"broken\.gguf: tensor 'output.weight' .*not finite"):
        at_head.method.table(Part(at_head, 8, 256))
