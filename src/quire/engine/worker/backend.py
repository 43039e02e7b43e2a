"""Chooses what computes here: the native kernels, replaying a recorded model, or torch, operator by operator."""

import torch

from quire.core.config import EngineConfig
from quire.core.errors import ConfigError
from quire.engine.resolve import Resolved
from quire.engine.worker.forward import EagerForward, Forward
from quire.engine.worker.model_runner import PROMPT_ROWS
from quire.engine.worker.recorded import RecordedForward
from quire.kernels.cpu.library import Pool, available, folder
from quire.kernels.cpu.packing import Packer
from quire.kernels.cpu.program import DTYPES, CannotRecord
from quire.kernels.cpu.sampling import NativeSampling
from quire.kernels.ops.sampling import Sampling, TorchSampling
from quire.kernels.platform import Machine
from quire.model.attention.backend import kv_storage
from quire.model.attention.native import NativeAttention
from quire.model.attention.paged import PagedAttention
from quire.model.families.decoder import CausalLM
from quire.model.kv import KVStorage


def open_native(config: EngineConfig, machine: Machine, num_threads: int) -> tuple[Packer | None, str]:
    """The native kernels and their threads, or None; and a line for the log that says which, and why.

    Raises ConfigError if they were asked for and cannot be had.
    """
    if machine.device.type != "cpu":
        return None, f"computing with torch on {machine.device}"
    if config.machine.cpu_kernels == "torch":
        return None, "computing with torch, as asked"
    libraries = available()
    reason = _why_not(config) or (None if libraries else f"none of them is in {folder()} for this processor")
    if reason is None:
        library = libraries[0]
        return Packer(library, Pool(library, num_threads)), f"native kernels {library.level}, {num_threads} threads"
    if config.machine.cpu_kernels == "native":
        raise ConfigError(f"cpu_kernels is native, but the native kernels cannot run: {reason}.")
    return None, f"computing with torch, several times slower than the native kernels, which cannot run: {reason}"


def make_forward(
    resolved: Resolved, model: CausalLM, device: torch.device, native: Packer | None
) -> tuple[Forward, KVStorage]:
    """The model ready to step, and its KV storage. Raises CannotRecord if the native kernels cannot run this model."""
    config = resolved.config
    block_size, max_num_seqs = config.cache.block_size, config.scheduler.max_num_seqs
    max_num_tokens, context = config.scheduler.max_num_batched_tokens, config.model.max_model_len
    assert block_size and max_num_seqs and max_num_tokens and context
    kv_dtype: torch.dtype = getattr(torch, config.cache.kv_cache_dtype)
    if native is None:
        attention = PagedAttention(block_size, device)
        kv = kv_storage(attention, model.kv_specs, resolved.num_blocks, kv_dtype, device)
        return EagerForward(model, kv, attention, device), kv
    recorded = NativeAttention(
        block_size,
        max_tokens=max_num_tokens,
        max_seqs=max_num_seqs,
        max_blocks=-(-context // block_size),
    )
    for reason in filter(None, map(recorded.supports, model.kv_specs)):
        raise CannotRecord(f"the native kernels do not attend with {reason}")
    kv = kv_storage(recorded, model.kv_specs, resolved.num_blocks, kv_dtype, device)
    max_rows = max(max_num_seqs, PROMPT_ROWS)
    return RecordedForward(model, kv, recorded, native.library, native.pool, max_rows=max_rows), kv


def make_sampling(native: Packer | None, vocab_size: int) -> Sampling:
    """What chooses tokens and scores them, of what computes the model where it can."""
    if native is None or vocab_size > NativeSampling.MAX_VOCAB_SIZE:
        return TorchSampling()
    return NativeSampling(native.library, native.pool)


def _why_not(config: EngineConfig) -> str | None:
    """What in the configuration the native kernels do not compute."""
    computed = sorted(str(dtype).removeprefix("torch.") for dtype in DTYPES)
    if config.model.dtype not in computed:
        return f"they compute in {' and '.join(computed)}, not in {config.model.dtype}"
    if config.cache.kv_cache_dtype not in (config.model.dtype, "int8"):
        return f"kv_cache_dtype is {config.cache.kv_cache_dtype}, neither the model's {config.model.dtype} nor int8"
    return None
