"""Puts an engine together: checkpoint, model, KV storage, sampler, scheduler."""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from quire.checkpoint.checkpoint import Checkpoint, open_checkpoint
from quire.checkpoint.overrides import Overrides
from quire.core.config import EngineConfig
from quire.core.errors import ConfigError
from quire.core.messages import EngineInfo
from quire.engine.engine import Engine
from quire.engine.executor.inline import InlineExecutor
from quire.engine.grammars import CompiledGrammars
from quire.engine.resolve import ModelShape, Resolved, resolve, resolve_dtype
from quire.engine.worker.backend import make_runner, measure_step, open_native
from quire.engine.worker.model_runner import ModelRunner
from quire.kernels import platform
from quire.kernels.bodies import bring_bodies
from quire.kernels.cpu.packing import Packer
from quire.kernels.cpu.program import CannotRecord
from quire.model.families.decoder import CausalLM
from quire.model.kv import KVStorage
from quire.model.load import load_model
from quire.scheduling.scheduler import Scheduler
from quire.text.grammar.limits import parser_limits

if TYPE_CHECKING:
    from llguidance import LLTokenizer

log = logging.getLogger("quire.engine")


def build_engine(config: EngineConfig) -> tuple[Engine, EngineInfo]:
    """Read the checkpoint that ``config.model.model`` is the path of, and make an engine ready to step.

    Raises ConfigError, also where the model finds no memory, CorruptCheckpoint or UnsupportedModel.
    """
    try:
        return _open_and_build(config)
    except MemoryError as error:
        raise ConfigError(
            f"{config.model.model} does not fit here ({error}): free memory, or take a smaller model, or one of fewer "
            "bits."
        ) from None


def _open_and_build(config: EngineConfig) -> tuple[Engine, EngineInfo]:
    began = time.monotonic()
    checkpoint = open_checkpoint(Path(config.model.model), Overrides.of(config.model))
    machine = platform.inspect(config.machine.device)
    bring_bodies(machine.device.type)
    shape = ModelShape.of(checkpoint.config, None if checkpoint.gguf is None else checkpoint.gguf.main_type)
    num_threads = config.machine.num_threads or machine.num_cores
    torch.set_num_threads(num_threads)
    platform.keep_freed_memory()

    def typed(*, is_native: bool) -> EngineConfig:
        return resolve_dtype(config, shape, machine, is_native=is_native)

    native, note = open_native(typed(is_native=True), machine, num_threads)
    try:
        engine, info = _build(typed(is_native=native is not None), checkpoint, shape, native)
    except CannotRecord as error:
        if config.machine.cpu_kernels == "native":
            raise
        native, note = None, f"computing with torch, several times slower: {error.message}"
        engine, info = _build(typed(is_native=False), checkpoint, shape, None)
    if native is not None:
        # What is left to torch is a few rows of logits. Its threads would run, and spin, beside the pool's: penalties
        # took a third of all tokens a second.
        torch.set_num_threads(1)
    for line in (*info.notes, note):
        log.info("%s", line)
    log.info("engine ready in %.2f s: %s on %s", time.monotonic() - began, info.dtype, machine.device.type)
    return engine, info


def _build(
    config: EngineConfig, checkpoint: Checkpoint, shape: ModelShape, native: Packer | None
) -> tuple[Engine, EngineInfo]:
    """Load the model, size the rest by what it left, put all together. Raises CannotRecord if native kernels cannot."""
    machine = platform.inspect(config.machine.device)
    model = _load(config, checkpoint, machine.device, native)
    assert config.cache.block_size is not None
    kv_dtype = _dtype(config.cache.kv_cache_dtype)
    block_bytes = KVStorage.bytes_per_block(model.kv_specs, config.cache.block_size, kv_dtype)
    taken = measure_step(config, shape, model, machine) if machine.computes_beside_host else 0
    # What is free is asked again, now that the weights have taken theirs.
    machine = platform.inspect(config.machine.device)
    resolved = resolve(config, shape, machine, block_bytes, taken)
    grammars = _grammars(config, checkpoint, model.vocab_size)
    runner = make_runner(resolved, model, machine, native, grammars)

    def again() -> ModelRunner:
        files = open_checkpoint(checkpoint.path, Overrides.of(config.model))
        model = _load(resolved.config, files, machine.device, native)
        return make_runner(resolved, model, machine, native, grammars)

    return Engine(_scheduler(resolved), InlineExecutor(runner, again), grammars=grammars), _info(resolved, model)


def _load(config: EngineConfig, checkpoint: Checkpoint, device: torch.device, native: Packer | None) -> CausalLM:
    model = load_model(
        checkpoint,
        dtype=_dtype(config.model.dtype),
        device=device,
        load_format=config.model.load_format,
        quantization=config.model.quantization,
        max_model_len=config.model.max_model_len,
        packer=native,
    )
    if native is not None:
        native.library.end_chunk()
    return model


def _scheduler(resolved: Resolved) -> Scheduler:
    config = resolved.config
    scheduler_config, cache = config.scheduler, config.cache
    assert config.model.max_model_len and cache.block_size
    assert scheduler_config.max_num_seqs and scheduler_config.max_num_batched_tokens
    return Scheduler(
        num_blocks=resolved.num_blocks,
        block_size=cache.block_size,
        max_num_seqs=scheduler_config.max_num_seqs,
        max_num_batched_tokens=scheduler_config.max_num_batched_tokens,
        max_model_len=config.model.max_model_len,
        policy=scheduler_config.scheduling_policy,
        enable_prefix_caching=cache.enable_prefix_caching,
        enable_chunked_prefill=scheduler_config.enable_chunked_prefill,
        max_num_interleaved_tokens=scheduler_config.max_num_interleaved_tokens or 0,
        long_prefill_token_threshold=scheduler_config.long_prefill_token_threshold,
    )


def _grammars(config: EngineConfig, checkpoint: Checkpoint, vocab_size: int) -> CompiledGrammars:
    """Who compiles grammars for this model; reads its tokenizer when the first one comes."""

    path, eos_token_ids = checkpoint.path, checkpoint.eos_token_ids

    def vocabulary() -> "LLTokenizer":
        from quire.checkpoint.resolve import resolve
        from quire.text.grammar.vocabulary import build_vocabulary
        from quire.text.tokenizer import Tokenizer

        words = open_checkpoint(resolve(config.model.tokenizer) if config.model.tokenizer else path)
        return build_vocabulary(Tokenizer.from_checkpoint(words), eos_token_ids, vocab_size)

    return CompiledGrammars(vocabulary, parser_limits)


def _info(resolved: Resolved, model: CausalLM) -> EngineInfo:
    config = resolved.config
    assert config.model.max_model_len and config.cache.block_size
    scheduler = config.scheduler
    assert scheduler.max_num_seqs and scheduler.max_num_batched_tokens and scheduler.max_num_interleaved_tokens
    cache = config.cache
    facts = {name: str(getattr(cache, name)) for name in cache.__struct_fields__}
    return EngineInfo(
        model=config.model.model,
        max_model_len=config.model.max_model_len,
        max_num_seqs=scheduler.max_num_seqs,
        max_num_batched_tokens=scheduler.max_num_batched_tokens,
        max_num_interleaved_tokens=scheduler.max_num_interleaved_tokens,
        vocab_size=model.vocab_size,
        block_size=config.cache.block_size,
        num_blocks=resolved.num_blocks,
        dtype=config.model.dtype,
        cache_config=facts | {"num_gpu_blocks": str(resolved.num_blocks), "cache_dtype": cache.kv_cache_dtype},
        notes=resolved.notes,
    )


def _dtype(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name)
    return dtype
