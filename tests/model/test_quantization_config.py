"""What a quantization_config says: which linears, which method, and what is refused by name."""

from typing import Any

import pytest

from quire.core.errors import ConfigError, CorruptCheckpoint, UnsupportedModel
from quire.kernels.cpu.packing import Packer
from quire.kernels.cpu.program import CannotRecord
from quire.model.quantization.fp8 import Fp8Blocks, Fp8Rows
from quire.model.quantization.int4 import Awq, Gptq, Packed4
from quire.model.quantization.int8 import Int8Rows
from quire.model.quantization.plain import Plain
from quire.model.quantization.registry import method_for
from quire.model.quantization.ruled import Ruled, names_match

Q, GATE, HEAD = "model.layers.3.self_attn.q_proj", "model.layers.13.mlp.gate_proj", "lm_head"
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "GEMM"}
INT8 = {
    "targets": ["Linear"],
    "weights": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True},
    "input_activations": {"num_bits": 8, "type": "int", "strategy": "token", "symmetric": True, "dynamic": True},
}
INT4 = {
    "targets": [r"re:.*gate_proj"],
    "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64, "symmetric": False},
    "format": "pack-quantized",
}


def groups(**named: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": named, "ignore": ["lm_head"]}


def changed(group: dict[str, Any], part: str, **values: Any) -> dict[str, Any]:
    return group | {part: group[part] | values}


def rule(quantization: dict[str, Any]) -> Any:
    method = method_for({"quantization_config": quantization})
    assert isinstance(method, Ruled)
    return method.rule


def test_each_method_has_its_scheme() -> None:
    assert rule(FP8)(Q) == Fp8Blocks("weight_scale_inv")
    assert rule({"quant_method": "fp8", "activation_scheme": "static"})(Q) == Fp8Rows(
        is_per_tensor=True, is_static=True
    )
    assert rule(GPTQ)(Q) == Gptq(128, is_ordered=True, is_v2=False)
    assert rule(AWQ)(Q) == Awq(128)
    older = {"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "zero_point": True, "version": "GEMM"}
    assert rule(older)(Q) == Awq(64)
    assert rule(groups(g=INT8))(Q) == Int8Rows(is_per_tensor=False, is_static=False)
    assert rule(GPTQ | {"group_size": -1})(Q).group_size is None
    assert isinstance(method_for({"text_config": {"quantization_config": FP8}}), Ruled)


def test_what_is_left_out() -> None:
    left_out = rule(FP8 | {"modules_to_not_convert": ["model.layers.3.self_attn", "mlp.gate"]})
    assert left_out(Q) is None
    assert left_out("model.layers.3.mlp.gate") is None
    assert left_out(GATE) is not None
    assert left_out("model.layers.13.self_attn.q_proj") is not None
    assert rule(FP8 | {"ignored_layers": [Q]})(Q) is None
    assert rule(AWQ | {"modules_to_not_convert": ["self_attn"]})(Q) is None
    assert all(rule(config)(HEAD) is None for config in (FP8, AWQ, GPTQ))
    assert rule(GPTQ | {"lm_head": True})(HEAD) is not None


def test_names_are_matched_by_whole_steps_or_by_expressions() -> None:
    matches = names_match(["mlp.gate", r"re:.*layers\.1\..*q_proj$", "visual."])
    assert matches("model.layers.1.mlp.gate")
    assert matches("model.layers.1.self_attn.q_proj")
    assert matches("visual.blocks.0")
    assert not matches("model.layers.1.mlp.gate_proj")
    assert not matches("model.layers.11.self_attn.q_proj")


@pytest.mark.parametrize(
    "pattern", ["(.*)*x", "(a|a)*x", "(?:a?){40}x", "(?:a?){4000000000}", ".*" * 9 + "x", "(a|a)" * 40, "x" * 1001, "("]
)
def test_expressions_with_too_many_ways_to_match_are_refused(pattern: str) -> None:
    with pytest.raises(CorruptCheckpoint, match="of at most 1000 characters and four wildcards"):
        rule(FP8 | {"ignored_layers": [f"re:{pattern}"]})
    with pytest.raises(CorruptCheckpoint, match="a regular expression"):
        rule(GPTQ | {"dynamic": {f"-:{pattern}": {}}})


@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.layers\.(0|1|2|13)\..*proj.*",
        r"^(?!.*lm_head)model(\.language_model)?\.layers\.\d+\.self_attn\.[qkv]_proj$",
        r"model(\.\w)*.*?q_proj",
    ],
)
def test_expressions_that_quantizers_write_are_taken(pattern: str) -> None:
    assert rule(FP8 | {"ignored_layers": [f"re:{pattern}"]})("model.layers.13.self_attn.q_proj") is None


def test_groups_are_of_what_they_target() -> None:
    found = rule(groups(first=INT4, second=INT8))
    assert found(GATE) == Packed4(64, is_symmetric=False, is_ordered=False)
    assert found(Q) == Int8Rows(is_per_tensor=False, is_static=False)
    assert found(HEAD) is None
    assert rule(groups(only=INT4))(Q) is None


def test_gptq_s_own_settings_for_some() -> None:
    found = rule(GPTQ | {"dynamic": {r"-:.*q_proj": {}, r"+:.*gate_proj": {"group_size": 32, "desc_act": False}}})
    assert found(Q) is None
    assert found(GATE) == Gptq(32, is_ordered=False, is_v2=False)
    assert found("model.layers.0.mlp.up_proj") == Gptq(128, is_ordered=True, is_v2=False)
    chosen = rule(GPTQ | {"modules_in_block_to_quantize": [["self_attn.q_proj", "self_attn.k_proj"], ["mlp.up_proj"]]})
    assert chosen(Q) is not None
    assert chosen(GATE) is None


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        ({"quant_method": "bitsandbytes"}, "'bitsandbytes', which is not implemented. Implemented are fp8, awq, gptq"),
        (FP8 | {"weight_block_size": [64, 64]}, r"blocks of \[64, 64\]"),
        (FP8 | {"activation_scheme": "static"}, "static activations"),
        (FP8 | {"fmt": "e5m2"}, "e5m2"),
        (AWQ | {"version": "gemv"}, "gemv"),
        (AWQ | {"bits": 8}, "8 bits"),
        (GPTQ | {"bits": 3}, "3 bits"),
        (GPTQ | {"checkpoint_format": "marlin"}, "marlin"),
        (GPTQ | {"pack_dtype": "int16"}, "int16"),
        (groups(g=changed(INT8, "weights", num_bits=4)), "quantization group g"),
        (groups(g=changed(INT8, "weights", symmetric=False)), "quantization group g"),
        (groups(g=changed(INT8, "weights", type="float")), "quantization group g"),
        (groups(g=changed(INT8, "input_activations", strategy="group")), "quantization group g"),
        (groups(g=INT8 | {"input_activations": None}), "quantization group g"),
        (groups(g=INT8 | {"output_activations": {"num_bits": 8}}), "quantization group g"),
        (groups(g=INT8 | {"format": "pack-quantized"}), "quantization group g"),
        (groups(g=INT4 | {"format": "marlin-24"}), "quantization group g"),
        (groups(g=changed(INT4, "weights", num_bits=8)), "quantization group g"),
        (groups(g=INT8) | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
        (groups(g=INT8) | {"transform_config": {"config_groups": {"a": {}}}}, "transform_config"),
    ],
)
def test_what_is_not_implemented_is_refused(quantization: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words) as caught:
        rule(quantization)(Q)
    assert caught.value.param == "$.quantization_config"


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        ({}, "quant_method"),
        (FP8 | {"modules_to_not_convert": "lm_head"}, "modules_to_not_convert"),
        (FP8 | {"modules_to_not_convert": ["re:("]}, "regular expression"),
        (FP8 | {"modules_to_not_convert": ["re:" + "a" * 1001]}, "1000"),
        (GPTQ | {"group_size": 0}, "group_size"),
        (GPTQ | {"dynamic": {"a": 1}}, "dynamic"),
        (groups(), "config_groups"),
        (groups(g=3), "g is 3"),
    ],
)
def test_what_is_damaged_is_named(quantization: dict[str, Any], words: str) -> None:
    with pytest.raises(CorruptCheckpoint, match=words):
        rule(quantization)(Q)


def test_what_is_asked_for_must_be_what_is_there() -> None:
    assert isinstance(method_for({}, asked="auto"), Plain)
    assert isinstance(method_for({"quantization_config": AWQ}, asked="awq"), Ruled)
    assert isinstance(method_for({}, is_gguf=True, asked="gguf"), Plain)
    with pytest.raises(ConfigError, match="quantization is awq, but the checkpoint is quantized with gptq"):
        method_for({"quantization_config": GPTQ}, asked="awq")
    with pytest.raises(ConfigError, match="quantization is fp8, but the checkpoint is not quantized"):
        method_for({}, asked="fp8")
    with pytest.raises(ConfigError, match="quantized with gguf"):
        method_for({}, is_gguf=True, asked="awq")


def test_the_native_kernels_leave_it_to_torch() -> None:
    packer = Packer.__new__(Packer)  # one that is never used
    with pytest.raises(CannotRecord, match="quantized with fp8"):
        method_for({"quantization_config": FP8}, packer)
