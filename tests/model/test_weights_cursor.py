"""Cursors: names, cuts, fused parts, made-up weights, and what nobody read."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from quire.core.errors import ConfigError, CorruptCheckpoint
from quire.kernels.cpu.library import Pool, available
from quire.kernels.cpu.packing import Packer
from quire.model.quantization.method import Side
from quire.model.quantization.plain import Plain
from quire.model.quantization.registry import method_for
from quire.model.weights.cursor import Cursor, Part, pull_fused
from quire.model.weights.dummy import DummySource
from quire.model.weights.safetensors import SafetensorsSource
from quire.model.weights.shard import Group, span
from quire.model.weights.source import TensorSource

CPU = torch.device("cpu")
HEADS, KV_HEADS, HEAD_DIM, HIDDEN = 8, 2, 4, 32


def cursor(source: TensorSource, group: Group | None = None, dtype: torch.dtype = torch.float32) -> Cursor:
    return Cursor(source, dtype, CPU, Plain(), group or Group())


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "q.weight": (HEADS * HEAD_DIM, HIDDEN),
        "k.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
        "q.bias": (HEADS * HEAD_DIM,),
        "k.bias": (KV_HEADS * HEAD_DIM,),
        "norm.weight": (HIDDEN,),
    }
    return {f"layers.0.{name}": torch.randn(shape, generator=draw) for name, shape in shapes.items()}


@pytest.fixture
def source(tensors: dict[str, Tensor], tmp_path: Path) -> SafetensorsSource:
    save_file(tensors, tmp_path / "model.safetensors")
    return SafetensorsSource([tmp_path / "model.safetensors"])


def parts(at: Cursor) -> list[Part]:
    return [
        Part(at / "q", HEADS * HEAD_DIM, HIDDEN, HEADS),
        Part(at / "k", KV_HEADS * HEAD_DIM, HIDDEN, KV_HEADS),
    ]


def test_steps_lead_to_names(source: SafetensorsSource, tensors: dict[str, Tensor]) -> None:
    layer = cursor(source) / "layers" / 0
    assert "q.weight" in layer
    assert "v.weight" not in layer
    assert torch.equal((layer / "norm").pull("weight", (HIDDEN,)), tensors["layers.0.norm.weight"])


def test_unread_is_what_nobody_pulled_or_skipped(source: SafetensorsSource, tensors: dict[str, Tensor]) -> None:
    root = cursor(source)
    assert root.unread() == tensors.keys()
    layer = root / "layers" / "0"
    layer.pull("norm.weight", (HIDDEN,))
    Plain().load(parts(layer), Side.OUT)
    assert root.unread() == {"layers.0.q.bias", "layers.0.k.bias"}
    layer.skip("q.bias")
    (layer / "k").skip("bias")
    layer.skip("rotary.inv_freq")
    assert root.unread() == set()


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_fused_parts_are_each_rank_s_heads(source: SafetensorsSource, tensors: dict[str, Tensor], size: int) -> None:
    """With more ranks than kv heads, neighbours hold the same one."""
    q, k = tensors["layers.0.q.weight"], tensors["layers.0.k.weight"]
    for rank in range(size):
        at = cursor(source, Group(rank, size)) / "layers" / "0"
        mine = q.chunk(size)[rank], k.chunk(min(size, KV_HEADS))[rank * min(size, KV_HEADS) // size]
        assert torch.equal(Plain().load(parts(at), Side.OUT).weight, torch.cat(mine))
        bias = pull_fused(parts(at), "bias", lambda part: (part.out_features,), cut=0)
        q_bias, k_bias = tensors["layers.0.q.bias"], tensors["layers.0.k.bias"]
        kv_share = rank * min(size, KV_HEADS) // size
        assert torch.equal(bias, torch.cat((q_bias.chunk(size)[rank], k_bias.chunk(min(size, KV_HEADS))[kv_share])))


@pytest.mark.parametrize(("side", "dim"), [(Side.OUT, 0), (Side.IN, 1)])
def test_ranks_together_hold_the_whole(
    source: SafetensorsSource, tensors: dict[str, Tensor], side: Side, dim: int
) -> None:
    shares = []
    for rank in range(4):
        part = Part(cursor(source, Group(rank, 4)) / "layers.0.q", HEADS * HEAD_DIM, HIDDEN)
        shares.append(Plain().load([part], side).weight)
    assert torch.equal(torch.cat(shares, dim), tensors["layers.0.q.weight"])


def test_side_none_is_held_by_all(source: SafetensorsSource, tensors: dict[str, Tensor]) -> None:
    weight = Plain().load([Part(cursor(source, Group(1, 2)) / "layers.0.q", 32, HIDDEN)], Side.NONE)
    assert torch.equal(weight.weight, tensors["layers.0.q.weight"])
    x = torch.randn(3, HIDDEN)
    bias = tensors["layers.0.q.bias"]
    torch.testing.assert_close(weight.matmul(x, bias), x @ weight.weight.T + bias)


def test_span_refuses_what_cannot_be_shared() -> None:
    assert span(12, 6, Group(2, 3)) == slice(8, 12)
    assert span(12, 2, Group(3, 4)) == slice(6, 12)
    with pytest.raises(ConfigError, match="tensor_parallel_size is 4"):
        span(12, 6, Group(0, 4))


def test_weights_become_the_cursor_s_type_unless_said(source: SafetensorsSource, tensors: dict[str, Tensor]) -> None:
    at = cursor(source, dtype=torch.bfloat16) / "layers.0.norm"
    stored = tensors["layers.0.norm.weight"]
    assert torch.equal(at.pull("weight", (HIDDEN,)), stored.bfloat16())
    assert torch.equal(at.pull("weight", (HIDDEN,), dtype=torch.float32), stored)
    out = torch.empty(HIDDEN, dtype=torch.float16)
    assert at.pull("weight", (HIDDEN,), out=out) is out
    assert torch.equal(out, stored.half())


def test_made_up_weights_do_not_depend_on_the_cut() -> None:
    whole = Plain().load(parts(cursor(DummySource()) / "a"), Side.OUT).weight
    assert whole.std() == pytest.approx(0.02, rel=0.1)
    ranks = [Plain().load(parts(cursor(DummySource(), Group(rank, 2)) / "a"), Side.OUT).weight for rank in range(2)]
    q_rows = HEADS * HEAD_DIM // 2
    again = torch.cat([rank[:q_rows] for rank in ranks] + [rank[q_rows:] for rank in ranks])
    assert torch.equal(again, whole)
    assert cursor(DummySource()).pull("norm.weight", (3,)).tolist() == [1, 1, 1]
    assert cursor(DummySource()).unread() == set()
    assert "lm_head.weight" not in cursor(DummySource())


def test_a_wrong_shape_names_both(source: SafetensorsSource) -> None:
    with pytest.raises(
        CorruptCheckpoint, match=r"model.safetensors: tensor 'layers.0.q.weight' .*\[32, 32\].*\[32, 16\]"
    ):
        cursor(source).pull("layers.0.q.weight", (32, 16))


@pytest.mark.native
@pytest.mark.parametrize("is_packed", [False, True])
def test_no_memory_is_taken_for_a_shape_that_the_file_has_not(source: SafetensorsSource, is_packed: bool) -> None:
    packer = None
    if is_packed:
        native = available()[0]
        packer = Packer(native, Pool(native, 1))
    at = cursor(source) / "layers" / 0
    with pytest.raises(CorruptCheckpoint, match="do not belong together"):
        method_for({}, packer).load([Part(at / "q", 2**30, 2**30)], Side.OUT)


def test_without_a_quantization_weights_are_plain() -> None:
    assert isinstance(method_for({}), Plain)
    assert isinstance(method_for({"quantization_config": None}), Plain)


def test_dummy_load_needs_no_weights(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    from quire.checkpoint.checkpoint import open_checkpoint
    from quire.model.load import load_model

    (tmp_path / "config.json").write_text((tiny_checkpoint("llama_rope3") / "config.json").read_text())
    model = load_model(open_checkpoint(tmp_path), dtype=torch.float32, device=CPU, load_format="dummy")
    logits = model.logits(torch.randn(2, 96))
    assert logits.isfinite().all()
    assert logits.std() > 0
