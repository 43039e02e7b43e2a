"""Every auto becomes a value; what cannot work is refused with the setting's name."""

import re
from dataclasses import replace

import pytest
import torch

from quire.core.config import EngineConfig, ModelConfig
from quire.core.errors import ConfigError, CorruptCheckpoint
from quire.engine.resolve import ModelShape, Resolved, resolve, resolve_dtype
from quire.kernels.platform import Machine
from quire.model.kv import KVSpec, KVStorage

SHAPE = ModelShape(context=8192, longest_context=8192, stored_dtype="bfloat16")
MACHINE = Machine(torch.device("cpu"), num_cores=2, available_memory_bytes=16 * 2**30, has_bfloat16=True)
BLOCK_BYTES = 2**20


def resolved(shape: ModelShape = SHAPE, **settings: object) -> Resolved:
    config = resolve_dtype(EngineConfig.of(**settings), shape, MACHINE, is_native=True)
    return resolve(config, shape, MACHINE, BLOCK_BYTES)


def test_nothing_is_left_open() -> None:
    config = resolved().config
    assert config.model.dtype == "bfloat16"
    assert config.model.max_model_len == 8192
    assert config.cache.block_size and config.machine.num_threads == 2
    assert config.scheduler.max_num_seqs and config.scheduler.max_num_batched_tokens


@pytest.mark.parametrize(
    ("stored", "fast", "is_native", "dtype"),
    [
        ("bfloat16", False, False, "float32"),
        ("bfloat16", False, True, "bfloat16"),
        ("blocks", False, True, "float32"),
        ("blocks", True, True, "bfloat16"),
        ("float16", True, False, "bfloat16"),
        ("float32", True, True, "float32"),
    ],
)
def test_dtype(stored: str, fast: bool, is_native: bool, dtype: str) -> None:
    shape = ModelShape(context=10, longest_context=10, stored_dtype=stored)
    machine = Machine(torch.device("cpu"), num_cores=1, available_memory_bytes=1, has_bfloat16=fast)
    config = resolve_dtype(EngineConfig(), shape, machine, is_native=is_native)
    assert (config.model.dtype, config.cache.kv_cache_dtype) == (dtype, dtype)


@pytest.mark.parametrize(
    ("main_type", "stored"), [(None, "float32"), ("F16", "float16"), ("BF16", "bfloat16"), ("Q4_K", "blocks")]
)
def test_a_gguf_file_says_itself_what_it_stores(main_type: str | None, stored: str) -> None:
    config = {"max_position_embeddings": 10, "dtype": "float32"}
    assert ModelShape.of(config, main_type).stored_dtype == stored


@pytest.mark.parametrize(
    ("config", "stored"),
    [
        ({}, "bfloat16"),
        ({"torch_dtype": None}, "bfloat16"),
        ({"torch_dtype": "auto"}, "bfloat16"),
        ({"torch_dtype": "torch.float32"}, "float32"),
        ({"dtype": "float"}, "float32"),
        ({"dtype": "half"}, "float16"),
        ({"dtype": "float16", "torch_dtype": "float32"}, "float16"),
    ],
)
def test_names_of_a_stored_dtype(config: dict[str, object], stored: str) -> None:
    assert ModelShape.of({"max_position_embeddings": 10, **config}).stored_dtype == stored


@pytest.mark.parametrize("name", ["fp32", "float64", 5, {"text_config": "float32"}])
def test_a_stored_dtype_that_is_none_has_to_be_chosen(name: object) -> None:
    shape = ModelShape.of({"max_position_embeddings": 10, "torch_dtype": name})
    with pytest.raises(ConfigError, match=f"{re.escape(str(name))}.*--dtype"):
        resolve_dtype(EngineConfig(), shape, MACHINE, is_native=True)
    chosen = EngineConfig(model=ModelConfig(dtype="float32"))
    assert resolve_dtype(chosen, shape, MACHINE, is_native=True).model.dtype == "float32"


@pytest.mark.parametrize(("has_bfloat16", "tokens"), [(True, 80), (False, 32)])
def test_prompts_beside_decodes_take_a_twentieth_of_a_second(has_bfloat16: bool, tokens: int) -> None:
    shape = ModelShape(context=8192, longest_context=8192, stored_dtype="bfloat16", flops_per_token=2e8)
    machine = replace(MACHINE, has_bfloat16=has_bfloat16)
    config = resolve_dtype(EngineConfig(), shape, machine, is_native=True)
    assert resolve(config, shape, machine, BLOCK_BYTES).config.scheduler.max_num_interleaved_tokens == tokens


@pytest.mark.parametrize(("asked", "got"), [(64, 64), (10**12, 512)])
def test_prompts_beside_decodes_are_limited_by_the_step(asked: int, got: int) -> None:
    scheduler = resolved(max_num_batched_tokens=512, max_num_interleaved_tokens=asked).config.scheduler
    assert scheduler.max_num_interleaved_tokens == got


def test_kv_takes_a_share_of_what_is_free() -> None:
    assert resolved().num_blocks == 4 * 1024
    assert resolved(gpu_memory_utilization=0.5).num_blocks == 8 * 1024
    assert resolved(kv_cache_memory_bytes=2**30).num_blocks == 1024
    assert resolved(num_gpu_blocks_override=300).num_blocks == 300


def test_int8_holds_nearly_twice_as_much() -> None:
    specs = [KVSpec(3, 64)] * 30

    def num_blocks(**settings: object) -> int:
        config = resolve_dtype(EngineConfig.of(kv_cache_memory_bytes=2**30, **settings), SHAPE, MACHINE, is_native=True)
        assert config.cache.block_size is not None
        dtype: torch.dtype = getattr(torch, config.cache.kv_cache_dtype)
        block_bytes = KVStorage.bytes_per_block(specs, config.cache.block_size, dtype)
        return resolve(config, SHAPE, MACHINE, block_bytes).num_blocks

    assert num_blocks() == 2**30 // (30 * 2 * 3 * 64 * 2 * 32)
    assert num_blocks(kv_cache_dtype="int8") == 2**30 // (30 * 2 * 3 * (64 + 4) * 32)
    assert 1.88 < num_blocks(kv_cache_dtype="int8") / num_blocks() < 1.89


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_int8_goes_with_every_type_of_model(dtype: str) -> None:
    config = resolved(dtype=dtype, kv_cache_dtype="int8").config
    assert (config.model.dtype, config.cache.kv_cache_dtype) == (dtype, "int8")


def test_kv_takes_no_more_than_can_be_used() -> None:
    result = resolved(max_num_seqs=2, max_model_len=320, block_size=32)
    assert result.num_blocks == 20


def test_context_is_fitted_to_memory_and_said() -> None:
    result = resolved(kv_cache_memory_bytes=100 * BLOCK_BYTES, block_size=32)
    assert result.config.model.max_model_len == 3200
    assert any("3200" in note for note in result.notes)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_model_len": 8193}, "8192"),
        ({"max_model_len": 8192, "kv_cache_memory_bytes": 100 * BLOCK_BYTES}, "--kv-cache-memory-bytes"),
        ({"kv_cache_memory_bytes": 17 * 2**30}, "are free"),
        ({"kv_cache_memory_bytes": 1}, "one block"),
        ({"num_gpu_blocks_override": 17 * 2**10}, "--num-gpu-blocks-override to at most 16384"),
        ({"tensor_parallel_size": 2}, "tensor_parallel_size"),
        ({"enable_expert_parallel": True}, "enable_expert_parallel"),
        ({"no_such_setting": 1}, "no_such_setting"),
        ({"max_num_seq": 1}, "max_num_seqs"),
        ({"max_num_seqs": 0}, "max_num_seqs"),
    ],
)
def test_what_cannot_work(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolved(**settings)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1000}


@pytest.mark.parametrize(
    ("config", "context", "longest"),
    [
        ({}, 1000, 1000),
        ({"rope_scaling": YARN}, 4000, 4000),  # as Qwen's models are stretched
        ({"rope_parameters": YARN | {"rope_theta": 1e6}}, 4000, 4000),
        ({"rope_scaling": YARN, "max_position_embeddings": 4000}, 4000, 4000),  # most models count what is stretched
        ({"rope_scaling": {"type": "yarn", "factor": 2.5}}, 2500, 2500),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 1000, 2000),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, 1000, 1000),
    ],
)
def test_the_context_is_what_the_rotation_is_made_for(config: dict[str, object], context: int, longest: int) -> None:
    shape = ModelShape.of({"max_position_embeddings": 1000} | config)
    assert (shape.context, shape.longest_context) == (context, longest)
    assert resolved(shape).config.model.max_model_len == context
    assert resolved(shape, max_model_len=longest).config.model.max_model_len == longest
    with pytest.raises(ConfigError, match=f"positions end at {longest}"):
        resolved(shape, max_model_len=longest + 1)


@pytest.mark.parametrize("kind", ["yarn", "dynamic"])
def test_no_rotation_is_stretched_beyond_what_can_be_counted(kind: str) -> None:
    scaling = {"rope_type": kind, "factor": 1e308}
    assert ModelShape.of({"max_position_embeddings": 1000, "rope_scaling": scaling}).longest_context == 2**31 - 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("text_config", 5),
        ("text_config", [1]),
        ("max_position_embeddings", 1),
        ("max_position_embeddings", 10**400),
        ("hidden_size", 10**400),
        ("head_dim", [1]),
        ("num_key_value_heads", "x"),
        ("num_experts_per_tok", -1),
    ],
)
def test_a_config_of_odd_sizes_is_named(key: str, value: object) -> None:
    sound = dict.fromkeys(("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"), 8)
    with pytest.raises(CorruptCheckpoint, match=key):
        ModelShape.of({"max_position_embeddings": 64, **sound, key: value})


def test_a_gpu_has_its_own_defaults_and_leaves_room_for_a_step() -> None:
    gib = 2**30
    gpu = Machine(
        torch.device("cuda"),
        num_cores=8,
        available_memory_bytes=60 * gib,
        has_bfloat16=True,
        computes_beside_host=True,
        total_memory_bytes=80 * gib,
    )

    def on_gpu(step_bytes: int, **settings: object) -> Resolved:
        return resolve(
            resolve_dtype(EngineConfig.of(**settings), SHAPE, gpu, is_native=False), SHAPE, gpu, BLOCK_BYTES, step_bytes
        )

    found = on_gpu(4 * gib)
    scheduler = found.config.scheduler
    assert (scheduler.max_num_seqs, scheduler.max_num_batched_tokens) == (512, 8192)
    assert found.num_blocks * BLOCK_BYTES == 48 * gib, "of 80 GiB 72 may be used, 20 are, and a step takes 4"
    assert on_gpu(4 * gib, gpu_memory_utilization=0.5).num_blocks * BLOCK_BYTES == 16 * gib
    with pytest.raises(ConfigError, match="one block"):
        on_gpu(40 * gib, gpu_memory_utilization=0.5)
