"""Quantized checkpoints: what is held is what the files mean, logits are those of that, and the road changes no bit.

The quantizers write what the real ones write: by the formats' descriptions, with nothing of Quire's. Each takes a
weight [N, K] float32, and gives the tensors that stand in its place, by the ends of their names, and what they mean.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from quire.checkpoint.checkpoint import open_checkpoint
from quire.core.errors import CorruptCheckpoint, UnsupportedModel
from quire.kernels.bodies import bring_bodies
from quire.model.load import load_model
from quire.model.quantization.fp8 import Fp8Weight
from quire.model.quantization.method import Side
from quire.model.quantization.registry import method_for
from quire.model.quantization.ruled import SideBySide
from quire.model.weights.cursor import Cursor, Part
from quire.model.weights.safetensors import SafetensorsSource

Written = tuple[dict[str, Tensor], Tensor]
Quantizer = Callable[[Tensor], Written]
FP8 = torch.float8_e4m3fn


def fp8_blocks(weight: Tensor, scale_name: str = "weight_scale_inv") -> Written:
    num_out, num_in = weight.shape
    codes, meant = torch.empty(num_out, num_in, dtype=FP8), torch.empty(num_out, num_in)
    scales = torch.empty(-(-num_out // 128), -(-num_in // 128))
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            square = np.s_[128 * i : 128 * i + 128, 128 * j : 128 * j + 128]
            scales[i, j] = weight[square].abs().max() / 448
            codes[square] = (weight[square] / scales[i, j]).to(FP8)
            meant[square] = codes[square].float() * scales[i, j]
    return {"weight": codes, scale_name: scales}, meant


def fp8_tensor(weight: Tensor, *, input_scale: float | None = None, has_dimension: bool = False) -> Written:
    scale = weight.abs().max() / 448
    codes = (weight / scale).to(FP8)
    written = {"weight": codes, "weight_scale": scale.view(1) if has_dimension else scale}
    if input_scale is not None:
        written["input_scale"] = torch.full((1,) if has_dimension else (), input_scale)
    return written, codes.float() * scale


def fp8_channels(weight: Tensor) -> Written:
    scale = (weight.abs().amax(1, keepdim=True) / 448).bfloat16()
    codes = (weight / scale.float()).clamp(-448, 448).to(FP8)
    return {"weight": codes, "weight_scale": scale}, codes.float() * scale.float()


def int8_channels(weight: Tensor, *, input_scale: float | None = None) -> Written:
    scale = (weight.abs().amax(1, keepdim=True) / 127).bfloat16()
    codes = (weight / scale.float()).round().clamp(-127, 127).to(torch.int8)
    written = {"weight": codes, "weight_scale": scale}
    if input_scale is not None:
        written["input_scale"] = torch.tensor([input_scale])
    return written, codes.float() * scale.float()


def awq(weight: Tensor, group: int = 32) -> Written:
    """Words of eight neighbouring columns of the transposed weight, in this order from the lowest bits on."""
    codes, zeros, scales, meant = _four_bits(weight.T.numpy(), group, is_symmetric=False)
    order = (0, 2, 4, 6, 1, 3, 5, 7)

    def words(values: np.ndarray) -> Tensor:
        packed = np.zeros((values.shape[0], values.shape[1] // 8), np.uint32)
        for i, column in enumerate(order):
            packed |= values[:, column::8].astype(np.uint32) << np.uint32(4 * i)
        return torch.from_numpy(packed.view(np.int32))

    written = {"qweight": words(codes), "qzeros": words(zeros), "scales": torch.from_numpy(scales)}
    return written, torch.from_numpy(meant).T.contiguous()


def gptq(
    weight: Tensor, group: int = 32, *, is_symmetric: bool = True, is_ordered: bool = False, is_v2: bool = False
) -> Written:
    """Codes packed along the inputs, zeros along the outputs, less one in the first version of the format."""
    num_in = weight.shape[1]
    order = np.random.default_rng(num_in).permutation(num_in) if is_ordered else np.arange(num_in)
    codes, zeros, scales, meant = _four_bits(weight.T.numpy()[order], group, is_symmetric=is_symmetric)
    back = np.argsort(order)
    stored = zeros if is_v2 else zeros - 1
    written = {
        "qweight": torch.from_numpy(_words(codes[back].T).T.copy()),
        "qzeros": torch.from_numpy(_words(stored)),
        "scales": torch.from_numpy(scales),
        "g_idx": torch.from_numpy((np.arange(num_in) // group)[back].astype(np.int32)),
    }
    return written, torch.from_numpy(meant[back].T.copy())


def packed(weight: Tensor, group: int = 32, *, is_symmetric: bool = True, is_ordered: bool = False) -> Written:
    """Codes packed along the inputs of [N, K], zeros along the outputs of [N, groups]; all plus eight."""
    num_out, num_in = weight.shape
    order = np.random.default_rng(num_in).permutation(num_in) if is_ordered else np.arange(num_in)
    codes, zeros, scales, meant = _four_bits(weight.numpy().T[order], group, is_symmetric=is_symmetric)
    back = np.argsort(order)
    written = {
        "weight_packed": torch.from_numpy(_words(codes[back].T)),
        "weight_scale": torch.from_numpy(scales.T.copy()),
        "weight_shape": torch.tensor([num_out, num_in]),
    }
    if not is_symmetric:
        written["weight_zero_point"] = torch.from_numpy(_words(zeros).T.copy())
    if is_ordered:
        written["weight_g_idx"] = torch.from_numpy((np.arange(num_in) // group)[back].astype(np.int32))
    return written, torch.from_numpy(meant[back].T.copy())


def _four_bits(
    values: np.ndarray, group: int, *, is_symmetric: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of values [K, N]: codes [K, N] and zeros [K / group, N] in 0..15, scales, and the values they mean."""
    groups = values.reshape(-1, group, values.shape[1])
    low, high = np.minimum(groups.min(1), 0), np.maximum(groups.max(1), 0)
    if is_symmetric:
        scales = (np.maximum(-low, high) / 7.5).astype(np.float16)
        zeros = np.full(scales.shape, 8)
    else:
        scales = ((high - low) / 15).astype(np.float16)
        zeros = np.clip(np.round(-low / scales.astype(np.float32)), 1, 15).astype(np.int64)
    wide = scales.astype(np.float32)[:, None]
    codes = np.clip(np.round(groups / wide) + zeros[:, None], 0, 15).astype(np.int64)
    meant = ((codes - zeros[:, None]) * wide).astype(np.float32)
    return codes.reshape(values.shape), zeros, scales, meant.reshape(values.shape)


def _words(codes: np.ndarray) -> np.ndarray:
    """[a, b] -> [a, b / 8] int32, the first in the lowest bits."""
    packed = np.zeros((codes.shape[0], codes.shape[1] // 8), np.uint32)
    for i in range(8):
        packed |= codes[:, i::8].astype(np.uint32) << np.uint32(4 * i)
    return packed.view(np.int32)


LLAMA = dict(hidden_size=128, intermediate_size=256, num_attention_heads=4, num_key_value_heads=2, head_dim=64)
MIXTURE = LLAMA | dict(
    num_experts=4, num_experts_per_tok=2, moe_intermediate_size=128, norm_topk_prob=True, mlp_only_layers=[1]
)
CALM = 0.25
"""Of the weights' size: with all of it, a random model makes the least rounding great."""
TOKENS = torch.randint(6, 384, (60,), generator=torch.Generator().manual_seed(1)).tolist()


def compressed(form: str, weights: dict[str, Any], inputs: dict[str, Any] | None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", "re:.*mlp.gate$"],
    }


def numbers(kind: str, bits: int, strategy: str, **more: Any) -> dict[str, Any]:
    return {"num_bits": bits, "type": kind, "strategy": strategy, "symmetric": True, "dynamic": False} | more


GPTQ: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
AWQ: dict[str, Any] = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
FP8_BLOCKS = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128], "fmt": "e4m3"}
PER_TOKEN = {"dynamic": True, "strategy": "token"}


class Case(NamedTuple):
    quantizer: Quantizer
    config: dict[str, Any]
    tolerance: float = 1e-4
    """Of the logits' distance to those of the weights meant, by their size: activations may be rounded."""


CASES = {
    "fp8 blocks": Case(fp8_blocks, FP8_BLOCKS, 0.1),
    "fp8 tensor": Case(fp8_tensor, {"quant_method": "fp8", "activation_scheme": "dynamic"}, 0.1),
    "fp8 tensor static": Case(
        partial(fp8_tensor, input_scale=0.05), {"quant_method": "fp8", "activation_scheme": "static"}, 0.1
    ),
    "compressed fp8 channels": Case(
        fp8_channels,
        compressed("float-quantized", numbers("float", 8, "channel"), numbers("float", 8, **PER_TOKEN)),
        0.1,
    ),
    "compressed fp8 tensor static": Case(
        partial(fp8_tensor, input_scale=0.05, has_dimension=True),
        compressed("float-quantized", numbers("float", 8, "tensor"), numbers("float", 8, "tensor")),
        0.1,
    ),
    "compressed fp8 blocks": Case(
        partial(fp8_blocks, scale_name="weight_scale"),
        compressed(
            "float-quantized",
            numbers("float", 8, "block", block_structure=[128, 128]),
            numbers("float", 8, "group", group_size=128, dynamic=True),
        ),
        0.1,
    ),
    "compressed int8": Case(
        int8_channels,
        compressed("int-quantized", numbers("int", 8, "channel"), numbers("int", 8, **PER_TOKEN)),
        0.1,
    ),
    "compressed int8 static": Case(
        partial(int8_channels, input_scale=0.05),
        compressed("int-quantized", numbers("int", 8, "channel"), numbers("int", 8, "tensor")),
        0.1,
    ),
    "awq": Case(awq, AWQ),
    "gptq": Case(gptq, GPTQ),
    "gptq asymmetric": Case(partial(gptq, is_symmetric=False), GPTQ | {"sym": False}),
    "gptq ordered": Case(partial(gptq, is_symmetric=False, is_ordered=True), GPTQ | {"desc_act": True, "sym": False}),
    "gptq second version": Case(
        partial(gptq, is_symmetric=False, is_v2=True), GPTQ | {"checkpoint_format": "gptq_v2", "sym": False}
    ),
    "gptq whole columns": Case(partial(gptq, group=128), GPTQ | {"group_size": 128}),
    "compressed int4": Case(packed, compressed("pack-quantized", numbers("int", 4, "group", group_size=32), None)),
    "compressed int4 asymmetric": Case(
        partial(packed, is_symmetric=False),
        compressed("pack-quantized", numbers("int", 4, "group", group_size=32, symmetric=False), None),
    ),
    "compressed int4 ordered": Case(
        partial(packed, is_ordered=True),
        compressed("pack-quantized", numbers("int", 4, "group", group_size=32, actorder="group"), None),
    ),
}


def write(
    source: Path, folder: Path, case: Case, *, is_quantized: Callable[[str], bool] = lambda name: True
) -> dict[str, Tensor]:
    """Quantize the linears of a checkpoint into ``folder``; returns its tensors with the weights meant."""
    meant = load_file(source / "model.safetensors")
    tensors: dict[str, Tensor] = {}
    for name, tensor in meant.items():
        if not name.endswith("_proj.weight") or not is_quantized(name):
            tensors[name] = tensor
            continue
        written, meant[name] = case.quantizer(tensor * CALM)
        tensors |= {name.removesuffix("weight") + end: part.contiguous() for end, part in written.items()}
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": case.config}))
    return meant


@pytest.fixture(scope="module")
def llama(random_checkpoint: Callable[..., Path]) -> Path:
    return random_checkpoint("Llama", **LLAMA)


@pytest.fixture(scope="module")
def mixture(random_checkpoint: Callable[..., Path]) -> Path:
    return random_checkpoint("Qwen3Moe", **MIXTURE)


def distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_the_weights_meant(
    name: str, llama: Path, tmp_path: Path, runner: Callable[..., Any], opened: Callable[..., Any]
) -> None:
    meant = write(llama, tmp_path, CASES[name])
    run = opened(tmp_path)
    assert run.cursor.unread() == set()
    whole = run.step([(0, 0, TOKENS)])[0]
    exact = runner(llama, tensors=lambda _: meant).step([(0, 0, TOKENS)])[0]
    assert distance(whole, exact) < CASES[name].tolerance

    run.forget(seed=1)
    pieces = [run.step([(3, at, TOKENS[at : at + 7]), (1, 0, TOKENS[:3])])[0] for at in range(0, len(TOKENS), 7)]
    assert torch.equal(torch.cat(pieces), whole)


@torch.inference_mode()
def test_fused_parts_hold_what_their_files_mean(llama: Path, tmp_path: Path, opened: Callable[..., Any]) -> None:
    """Squares do not reach over parts: q of 256 features, k and v of 128."""
    meant = write(llama, tmp_path, CASES["fp8 blocks"])
    cursor = opened(tmp_path).cursor / "model.layers.1.self_attn"
    sizes = {"q_proj": 256, "k_proj": 128, "v_proj": 128}
    weight = cursor.method.load([Part(cursor / name, size, 128) for name, size in sizes.items()], Side.OUT)
    assert isinstance(weight, Fp8Weight)
    whole = torch.cat([meant[f"model.layers.1.self_attn.{name}.weight"] for name in sizes])
    assert torch.equal(weight.matmul(torch.eye(128)), whole.T)


@pytest.mark.parametrize("name", ["fp8 blocks", "compressed fp8 channels"])
def test_experts_in_fp8(name: str, mixture: Path, tmp_path: Path, runner: Callable[..., Any], opened: Any) -> None:
    meant = write(mixture, tmp_path, CASES[name])
    run = opened(tmp_path)
    assert run.cursor.unread() == set()
    whole = run.step([(0, 0, TOKENS)])[0]
    exact = runner(mixture, tensors=lambda _: meant).step([(0, 0, TOKENS)])[0]
    # Rounded activations now and then choose another expert, so that some rows are far off.
    near = ((whole - exact).norm(dim=1) / exact.norm(dim=1)).sort().values
    assert near[len(near) // 2] < 0.15
    run.forget(seed=1)
    pieces = [run.step([(3, at, TOKENS[at : at + 7]), (1, 0, TOKENS[:3])])[0] for at in range(0, len(TOKENS), 7)]
    assert torch.equal(torch.cat(pieces), whole)


def test_what_is_left_out_stands_beside_what_is_not(
    llama: Path, tmp_path: Path, runner: Callable[..., Any], opened: Callable[..., Any]
) -> None:
    """k_proj of every layer, and layer 1 whole, are as they were."""

    def is_quantized(name: str) -> bool:
        return "k_proj" not in name and "layers.1." not in name

    case = Case(awq, AWQ | {"modules_to_not_convert": ["k_proj", "model.layers.1"]})
    meant = write(llama, tmp_path, case, is_quantized=is_quantized)
    run = opened(tmp_path)
    assert run.cursor.unread() == set()
    exact = runner(llama, tensors=lambda _: meant).step([(0, 0, TOKENS)])[0]
    assert distance(run.step([(0, 0, TOKENS)])[0], exact) < 1e-4


def test_static_scales_that_differ_are_each_their_own(llama: Path, tmp_path: Path, opened: Callable[..., Any]) -> None:
    case = CASES["fp8 tensor static"]
    write(llama, tmp_path, case)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.input_scale"] = torch.tensor(0.5)
    save_file(tensors, tmp_path / "model.safetensors")
    cursor = opened(tmp_path).cursor / "model.layers.0.mlp"
    weight = cursor.method.load([Part(cursor / name, 256, 128) for name in ("gate_proj", "up_proj")], Side.OUT)
    assert isinstance(weight, SideBySide)
    assert [one.input_scale.item() for one in weight.weights] == pytest.approx([0.05, 0.5])  # type: ignore[attr-defined]


def test_a_quantized_head(llama: Path, tmp_path: Path, runner: Callable[..., Any], opened: Callable[..., Any]) -> None:
    case = Case(gptq, GPTQ | {"lm_head": True})
    meant = write(llama, tmp_path, case)
    tensors = load_file(tmp_path / "model.safetensors")
    written, meant["lm_head.weight"] = gptq(tensors.pop("lm_head.weight"))
    tensors |= {f"lm_head.{end}": part.contiguous() for end, part in written.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    run = opened(tmp_path)
    assert run.cursor.unread() == set()
    exact = runner(llama, tensors=lambda _: meant).step([(0, 0, TOKENS)])[0]
    found = run.step([(0, 0, TOKENS)])[0]
    assert distance(found, exact) < 1e-4
    likeliest = run.model.likeliest(torch.eye(128)).tolist()
    assert likeliest == run.model.logits(torch.eye(128)).argmax(-1).tolist()


def test_a_bias_of_zeros_is_no_bias(llama: Path, tmp_path: Path, opened: Callable[..., Any]) -> None:
    """Older quantizers write one everywhere; one that is not zero has no place in the model, and is reported."""
    write(llama, tmp_path, CASES["gptq"])
    tensors = load_file(tmp_path / "model.safetensors")
    names = [f"model.layers.{layer}.self_attn.o_proj.bias" for layer in range(3)]
    save_file(tensors | {name: torch.zeros(128) for name in names}, tmp_path / "model.safetensors")
    assert opened(tmp_path).cursor.unread() == set()
    ones = {names[1]: torch.ones(128)}
    save_file(tensors | ones, tmp_path / "model.safetensors")
    assert opened(tmp_path).cursor.unread() == set(ones)


@pytest.mark.parametrize(
    ("end", "change", "error", "words"),
    [
        ("weight", lambda x: x.view(torch.uint8).fill_(0x7F).view(FP8), CorruptCheckpoint, "not finite"),
        ("weight_scale_inv", lambda x: x.fill_(torch.inf), CorruptCheckpoint, "not finite"),
        ("weight_scale_inv", lambda x: x[:, :1].contiguous(), CorruptCheckpoint, r"has shape \[1, 1\]"),
        ("weight", lambda x: x.float(), UnsupportedModel, "stored as float32 where the model holds float8_e4m3fn"),
    ],
)
def test_what_is_damaged(
    end: str,
    change: Callable[[Tensor], Tensor],
    error: type[Exception],
    words: str,
    llama: Path,
    tmp_path: Path,
    opened: Callable[..., Any],
) -> None:
    write(llama, tmp_path, CASES["fp8 blocks"])
    tensors, name = load_file(tmp_path / "model.safetensors"), f"model.layers.2.mlp.down_proj.{end}"
    save_file(tensors | {name: change(tensors[name])}, tmp_path / "model.safetensors")
    with pytest.raises(error, match=words) as caught:
        opened(tmp_path)
    assert name in str(caught.value)


def test_groups_that_act_order_shares_out_unequally(llama: Path, tmp_path: Path, opened: Callable[..., Any]) -> None:
    write(llama, tmp_path, CASES["gptq ordered"])
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.g_idx"][:40] = 0
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModel, match=r"model\.layers\.0\.mlp\.up_proj: g_idx"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["compressed int8", "awq", "fp8 tensor static"])
def test_experts_in_other_formats_are_refused(
    name: str, mixture: Path, tmp_path: Path, opened: Callable[..., Any]
) -> None:
    write(mixture, tmp_path, CASES[name])
    with pytest.raises(UnsupportedModel, match=r"experts under model\.layers\.0\.mlp\.experts"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["fp8 blocks", "compressed int8", "awq", "gptq", "compressed int4 asymmetric"])
def test_made_up_weights(name: str, llama: Path, tmp_path: Path) -> None:
    """From a configuration alone, in the format that it names."""
    config = json.loads((llama / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": CASES[name].config}))
    checkpoint = open_checkpoint(tmp_path)
    model = load_model(checkpoint, dtype=torch.bfloat16, device=torch.device("cpu"), load_format="dummy")
    weight = model._blocks[0].mlp._down.weight  # what the file's codes and scales make of unit vectors
    made = weight.matmul(torch.eye(256, dtype=torch.bfloat16)).float()
    assert made.isfinite().all()
    assert 1e-4 < made.std() < 0.1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="has no CUDA device")
@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_linears_on_a_cuda_device(name: str, llama: Path, tmp_path: Path) -> None:
    """Read there, fused there, multiplied there: as on a CPU."""
    bring_bodies("cuda")
    write(llama, tmp_path, CASES[name])
    method = method_for({"quantization_config": CASES[name].config})
    x = torch.randn(40, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = {}
    for device in ("cpu", "cuda"):
        source = SafetensorsSource([tmp_path / "model.safetensors"])
        at = Cursor(source, torch.bfloat16, torch.device(device), method) / "model.layers.0.mlp"
        weight = method.load([Part(at / end, 256, 128) for end in ("gate_proj", "up_proj")], Side.OUT)
        found[device] = weight.matmul(x.to(device)).float().cpu()
    assert distance(found["cuda"], found["cpu"]) < 0.02
