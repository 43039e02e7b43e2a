"""Turns every ``auto`` of a configuration into a value, once, and says why.

A pure function of the configuration, the model's shape and the machine: no files, no tensors.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from quire.core.config import EngineConfig
from quire.core.errors import ConfigError
from quire.kernels.platform import Machine
from quire.model.fields import Fields
from quire.model.layers.rotary import stated_rope

_GIB = 2**30
_INTERLEAVED_S = 0.05
"""What prompts may add to a step in which others decode: a reader should not notice."""
_CPU_FLOPS = {True: 180e9, False: 50e9}
"""Of one core, roughly, with and without bfloat16 products."""
_GPU_FLOPS = 400e12
_INTERLEAVED_STEP, _LEAST_INTERLEAVED = 16, 32
_GGUF_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_DTYPES = {"float": "float32", "half": "float16", "auto": "bfloat16"}
"""What a config.json may also call its dtype. One that is silent stores bfloat16, most likely."""
_STORED = ("float32", "float16", "bfloat16", "blocks")


class _Defaults(NamedTuple):
    """What a kind of device does well."""

    memory_share: float
    """On a CPU, of the memory that is free: other programs live on this machine too. On a GPU of all there is."""
    batched_tokens: int
    """Of prompts alone: enough for matrix products to run at their peak."""
    num_seqs: int
    block_size: int


_CPU = _Defaults(0.25, 512, 128, 32)
_GPU = _Defaults(0.9, 8192, 512, 64)


def _defaults(machine: Machine) -> _Defaults:
    return _CPU if machine.device.type == "cpu" else _GPU


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """What sizes depend on."""

    context: int
    """Positions that it is made for."""
    longest_context: int
    """Positions that it can be asked for."""
    stored_dtype: str
    """float32, float16 or bfloat16, or blocks: GGUF's quantized types; else what the config says in its own words."""
    flops_per_token: float = 0
    """Of a prompt token, roughly; 0 if the config does not say."""

    @classmethod
    def of(cls, config: Mapping[str, Any], main_type: str | None = None) -> "ModelShape":
        """From a Hugging Face config; of a multimodal one, the text half. ``main_type``: of a GGUF file."""
        whole = Fields(config)
        inner = whole.inner("text_config")
        text = inner if inner and inner.values else whole
        stated = [one.values.get(name) for one in (text, whole) for name in ("dtype", "torch_dtype")]
        stored = str(next(filter(None, stated), "auto")).removeprefix("torch.")
        text.integer("max_position_embeddings", least=2)  # no default will do here
        rope = stated_rope(text)
        return cls(
            context=rope.context,
            longest_context=rope.longest_context,
            stored_dtype=_DTYPES.get(stored, stored) if main_type is None else _GGUF_DTYPES.get(main_type, "blocks"),
            flops_per_token=_flops_per_token(text),
        )


def _flops_per_token(text: Fields) -> float:
    """Two for each weight of the layers that a token meets, by a decoder's usual fields; 0 if one is missing."""
    hidden, wide, layers, heads = (
        text.integer(name, None)
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    )
    if not (hidden and wide and layers and heads):
        return 0
    head_dim = text.integer("head_dim", None) or hidden / heads
    if chosen := text.integer("num_experts_per_tok", None):
        wide = chosen * text.integer("moe_intermediate_size", wide)
    attention = 2 * hidden * head_dim * (heads + text.integer("num_key_value_heads", heads))
    return 2 * layers * (attention + 3 * hidden * wide)


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration without autos, the number of KV blocks, and what was decided for the user."""

    config: EngineConfig
    num_blocks: int
    notes: list[str]


def resolve_dtype(config: EngineConfig, shape: ModelShape, machine: Machine, *, is_native: bool) -> EngineConfig:
    """Refuse what cannot run here, and choose the type of weights: both before the model is loaded.

    ``is_native``: the native kernels compute, which widen bfloat16 as they read it, on any CPU: half the memory of
    weights to wait for. Blocks are the same in either type, and answer better with activations in float32. Torch has
    no such kernels for a CPU without bfloat16. Raises ConfigError.
    """
    _refuse_what_is_missing(config)
    if config.model.dtype != "auto":
        dtype: Any = config.model.dtype
    elif shape.stored_dtype not in _STORED:
        raise ConfigError(
            f"The model's config.json says that its dtype is {shape.stored_dtype!r:.80}, which is none of float32, "
            "float16 and bfloat16: say in which one to compute (--dtype)."
        )
    elif shape.stored_dtype == "float32":
        dtype = "float32"
    else:
        keeps = machine.has_bfloat16 or (is_native and shape.stored_dtype != "blocks")
        dtype = "bfloat16" if keeps else "float32"
    kv_dtype: Any = dtype if config.cache.kv_cache_dtype == "auto" else config.cache.kv_cache_dtype
    return msgspec.structs.replace(
        config,
        model=msgspec.structs.replace(config.model, dtype=dtype),
        cache=msgspec.structs.replace(
            config.cache, kv_cache_dtype=kv_dtype, block_size=config.cache.block_size or _defaults(machine).block_size
        ),
    )


def step_sizes(config: EngineConfig, machine: Machine) -> tuple[int, int]:
    """Most sequences, and most tokens of a step in which prompts are computed in chunks."""
    defaults = _defaults(machine)
    max_num_seqs = config.scheduler.max_num_seqs or defaults.num_seqs
    return max_num_seqs, config.scheduler.max_num_batched_tokens or max(defaults.batched_tokens, max_num_seqs)


def resolve(
    config: EngineConfig, shape: ModelShape, machine: Machine, block_bytes: int, step_bytes: int = 0
) -> Resolved:
    """Fill in every remaining auto. ``block_bytes``: KV of one block over all layers; ``step_bytes``: what the greatest
    step takes of the device's memory beside it.

    Raises ConfigError when what was asked for cannot work here, naming the setting and the limit.
    """
    notes: list[str] = []
    assert config.cache.block_size is not None
    block_size = config.cache.block_size
    context = _context(config, shape)
    max_num_seqs, batched = step_sizes(config, machine)
    wanted = max_num_seqs * -(-context // block_size)
    num_blocks = _num_blocks(config, machine, block_bytes, step_bytes, wanted, notes)
    if num_blocks * block_size < context:
        fits = num_blocks * block_size
        if config.model.max_model_len is not None or fits < 2:
            raise ConfigError(
                f"max_model_len is {context}, but the KV cache holds only {fits} tokens "
                f"({num_blocks} blocks of {block_size}): lower --max-model-len to {fits}, or raise "
                f"--kv-cache-memory-bytes to at least {block_bytes * -(-context // block_size)}."
            )
        notes.append(f"max_model_len is {fits}, not the model's {context}: that is what the KV cache can hold")
        context = fits
    if not config.scheduler.enable_chunked_prefill:
        batched = max(batched, context)
    if config.machine.enforce_eager and not machine.computes_beside_host:
        notes.append("enforce_eager has no effect on a CPU: what is recorded there is never shaped by a batch")
    interleaved = min(batched, config.scheduler.max_num_interleaved_tokens or _interleaved_tokens(shape, machine))
    return Resolved(
        config=msgspec.structs.replace(
            config,
            model=msgspec.structs.replace(config.model, max_model_len=context),
            scheduler=msgspec.structs.replace(
                config.scheduler,
                max_num_seqs=max_num_seqs,
                max_num_batched_tokens=batched,
                max_num_interleaved_tokens=interleaved,
            ),
            machine=msgspec.structs.replace(
                config.machine,
                device=machine.device.type,
                num_threads=config.machine.num_threads or machine.num_cores,
            ),
        ),
        num_blocks=num_blocks,
        notes=notes,
    )


def _interleaved_tokens(shape: ModelShape, machine: Machine) -> int:
    """Prompt tokens that take about _INTERLEAVED_S."""
    if not shape.flops_per_token:
        return _defaults(machine).batched_tokens
    is_cpu = machine.device.type == "cpu"
    flops = machine.num_cores * _CPU_FLOPS[machine.has_bfloat16] if is_cpu else _GPU_FLOPS
    tokens = _INTERLEAVED_S * flops / shape.flops_per_token
    return max(_LEAST_INTERLEAVED, int(tokens) // _INTERLEAVED_STEP * _INTERLEAVED_STEP)


def _refuse_what_is_missing(config: EngineConfig) -> None:
    parallel = config.parallel
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        size = getattr(parallel, name)
        if size > 1:
            raise ConfigError(f"{name} is {size}: this version of Quire runs a model on one device; use 1.")
    if parallel.enable_expert_parallel:
        raise ConfigError("enable_expert_parallel is set: this version of Quire runs a model on one device.")
    if config.cache.kv_cache_dtype == "float16" and config.model.dtype != "float16":
        raise ConfigError("kv_cache_dtype is float16: it must be auto, float32, bfloat16, int8 or the model's dtype.")


def _context(config: EngineConfig, shape: ModelShape) -> int:
    asked = config.model.max_model_len
    if asked is None:
        return shape.context
    if asked > shape.longest_context:
        raise ConfigError(
            f"max_model_len is {asked}, but the model's positions end at {shape.longest_context}: lower "
            "--max-model-len, or stretch them by a rope_scaling such as yarn (--hf-overrides)."
        )
    return asked


def _num_blocks(
    config: EngineConfig, machine: Machine, block_bytes: int, step_bytes: int, wanted: int, notes: list[str]
) -> int:
    cache = config.cache
    free = machine.available_memory_bytes - step_bytes
    if cache.num_gpu_blocks_override is not None:
        if cache.num_gpu_blocks_override * block_bytes > free:
            raise ConfigError(
                f"num_gpu_blocks_override is {cache.num_gpu_blocks_override}, but a block takes {block_bytes} bytes, "
                f"and only {free} are free: lower --num-gpu-blocks-override to at most {max(0, free) // block_bytes}."
            )
        return cache.num_gpu_blocks_override
    if cache.kv_cache_memory_bytes is not None:
        if cache.kv_cache_memory_bytes > free:
            raise ConfigError(
                f"kv_cache_memory_bytes is {cache.kv_cache_memory_bytes}, but only {free} bytes of memory are free: "
                "lower --kv-cache-memory-bytes."
            )
        budget, why = cache.kv_cache_memory_bytes, "as asked"
    elif machine.device.type == "cpu":
        share = cache.gpu_memory_utilization or _CPU.memory_share
        budget, why = int(free * share), f"{share:.0%} of the {free / _GIB:.1f} GiB that are free"
    else:
        share, total = cache.gpu_memory_utilization or _GPU.memory_share, machine.total_memory_bytes
        budget = max(0, int(total * share) - (total - free))
        why = f"what weights and steps leave of {share:.0%} of {total / _GIB:.1f} GiB"
    num_blocks = min(budget // block_bytes, wanted)
    if num_blocks < 1:
        raise ConfigError(
            f"The KV cache may take {budget} bytes, but one block of {cache.block_size} tokens needs {block_bytes}: "
            "raise --kv-cache-memory-bytes or --gpu-memory-utilization."
        )
    if num_blocks < wanted:
        notes.append(f"KV cache: {num_blocks * block_bytes / _GIB:.2f} GiB, {why}")
    else:
        notes.append(f"KV cache: up to {num_blocks * block_bytes / _GIB:.2f} GiB, all that can ever be used")
    return num_blocks
