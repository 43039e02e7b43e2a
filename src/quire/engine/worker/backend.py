"""Chooses what computes here, and puts a model runner together.

On a CPU that is the native kernels, replaying a recorded model, or torch, operator by operator. A device that computes
beside this process keeps tokens and block tables itself, and replays decode steps.
"""

import logging
from typing import TYPE_CHECKING

import torch

from quire.core.config import EngineConfig
from quire.core.errors import ConfigError
from quire.decoding.device import DeviceSampler
from quire.decoding.device_reference import TorchDeviceSampling
from quire.decoding.grammar import Grammars
from quire.decoding.sampler import Sampler
from quire.decoding.slots import SlotParameters
from quire.engine.resolve import ModelShape, Resolved, step_sizes
from quire.engine.worker.chooser import Chooser
from quire.engine.worker.forward import EagerForward, Forward
from quire.engine.worker.graphed import GraphedForward
from quire.engine.worker.model_runner import ModelRunner
from quire.engine.worker.peak import step_bytes
from quire.engine.worker.prompt_scores import PROMPT_ROWS
from quire.engine.worker.recorded import RecordedForward
from quire.engine.worker.recorded_steps import Parts
from quire.engine.worker.recorder import recorder_for
from quire.engine.worker.sizes import Sizes
from quire.engine.worker.slot_tokens import DeviceTokens, HostTokens, SlotTokens
from quire.kernels.cpu.library import Pool, available, folder
from quire.kernels.cpu.packing import Packer
from quire.kernels.cpu.program import DTYPES, CannotRecord
from quire.kernels.cpu.sampling import NativeSampling
from quire.kernels.ops.device_sampling import DeviceSampling
from quire.kernels.ops.sampling import Sampling, TorchSampling
from quire.kernels.platform import Machine
from quire.model.attention.backend import DeviceAttention, kv_storage
from quire.model.attention.native import NativeAttention
from quire.model.attention.paged import PagedAttention
from quire.model.families.decoder import CausalLM
from quire.model.kv import KVStorage

if TYPE_CHECKING:
    from quire.kernels.triton.sampling import TritonSampling

log = logging.getLogger("quire.engine")


def open_native(config: EngineConfig, machine: Machine, num_threads: int) -> tuple[Packer | None, str]:
    """The native kernels and their threads, or None; and a line for the log that says which, and why.

    Raises ConfigError if they were asked for and cannot be had.
    """
    if machine.device.type != "cpu":
        return None, f"computing with torch and Triton's kernels on {machine.device}"
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


def make_runner(
    resolved: Resolved, model: CausalLM, machine: Machine, native: Packer | None, grammars: Grammars
) -> ModelRunner:
    """All that runs the model on its device. Raises CannotRecord if the native kernels cannot run this model."""
    sizes = Sizes.of(resolved)
    sampler = Sampler(
        sizes.max_num_seqs,
        model.vocab_size,
        machine.device,
        _sampling(native, model.vocab_size, machine.device),
        grammars,
        has_jumps=resolved.config.scheduler.enable_chunked_prefill,
    )
    forward: Forward
    tokens: SlotTokens
    trial = None
    if native is not None:
        forward, kv, tokens = _native_forward(resolved, sizes, model, native, sampler.parameters)
        trial = forward.trial
    elif machine.computes_beside_host:
        forward, kv, tokens = _device_forward(resolved, sizes, model, machine.device)
    else:
        attention = PagedAttention(sizes.block_size, machine.device)
        kv = kv_storage(attention, model.kv_specs, resolved.num_blocks, sizes.kv_dtype, machine.device)
        forward = EagerForward(model, kv, attention, machine.device)
        tokens = HostTokens(sizes.max_num_seqs, sizes.max_model_len, sizes.max_blocks)
    beside = _device_sampler(sizes, model.vocab_size, machine.device) if machine.computes_beside_host else None
    chooser = Chooser(sampler, beside, machine.device, trial)
    return ModelRunner(forward, kv, chooser, tokens, sizes.block_size)


def measure_step(config: EngineConfig, shape: ModelShape, model: CausalLM, machine: Machine) -> int:
    """Bytes that the greatest step takes of the device, beside weights and KV."""
    num_seqs, num_tokens = step_sizes(config, machine)
    context = config.model.max_model_len or shape.context
    assert config.cache.block_size
    kv_dtype: torch.dtype = getattr(torch, config.cache.kv_cache_dtype)
    sizes = Sizes(config.cache.block_size, num_seqs, num_tokens, context, kv_dtype)
    return step_bytes(model, device_attention(model, sizes, machine.device), sizes, machine.device)


def _native_forward(
    resolved: Resolved, sizes: Sizes, model: CausalLM, native: Packer, parameters: SlotParameters
) -> tuple[RecordedForward, KVStorage, HostTokens]:
    attention = NativeAttention(
        sizes.block_size,
        max_tokens=sizes.max_num_tokens,
        max_seqs=sizes.max_num_seqs,
        max_blocks=sizes.max_blocks,
    )
    for reason in filter(None, map(attention.supports, model.kv_specs)):
        raise CannotRecord(f"the native kernels do not attend with {reason}")
    # Everything is at its final place before it is recorded.
    kv = kv_storage(attention, model.kv_specs, resolved.num_blocks, sizes.kv_dtype, torch.device("cpu"))
    tokens = HostTokens(sizes.max_num_seqs, sizes.max_model_len, sizes.max_blocks)
    max_rows = max(sizes.max_num_seqs, PROMPT_ROWS)
    forward = RecordedForward(model, kv, attention, tokens, parameters, native.library, native.pool, max_rows=max_rows)
    return forward, kv, tokens


def _device_forward(
    resolved: Resolved, sizes: Sizes, model: CausalLM, device: torch.device
) -> tuple[Forward, KVStorage, DeviceTokens]:
    attention = device_attention(model, sizes, device)
    # One block more than sequences are given, for the rows that fill up a recorded step.
    kv = kv_storage(attention, model.kv_specs, resolved.num_blocks + 1, sizes.kv_dtype, device)
    tokens = DeviceTokens(sizes.max_num_seqs, sizes.max_model_len, sizes.max_blocks, resolved.num_blocks, device)
    eager = EagerForward(model, kv, attention, device)
    if attention.waits:
        log.warning("no step is recorded, which is slow: Triton's kernels do not attend to such keys and values")
    if resolved.config.machine.enforce_eager or attention.waits:
        return eager, kv, tokens
    parts = Parts(model, kv, attention, tokens, sizes)
    return GraphedForward(eager, parts, recorder_for(device)), kv, tokens


def device_attention(model: CausalLM, sizes: Sizes, device: torch.device) -> DeviceAttention:
    """What attends on a device: Triton's kernels on a CUDA device, where they can."""
    if device.type == "cuda":
        from quire.model.attention.cuda import CudaAttention  # loads Triton, which other machines need not have

        if CudaAttention.why_not(model.kv_specs, sizes.kv_dtype) is None:
            return CudaAttention(sizes.block_size, device, max_context=sizes.max_model_len)
    return PagedAttention(sizes.block_size, device)


def _device_sampler(sizes: Sizes, vocab_size: int, device: torch.device) -> DeviceSampler:
    sampling: DeviceSampling = _triton_sampling(vocab_size, device) or TorchDeviceSampling()
    return DeviceSampler(sizes.max_num_seqs, vocab_size, device, sampling)


def _sampling(native: Packer | None, vocab_size: int, device: torch.device) -> Sampling:
    """What chooses tokens and scores them, of what computes the model where it can."""
    if native is None or vocab_size > NativeSampling.MAX_VOCAB_SIZE:
        return _triton_sampling(vocab_size, device) or TorchSampling()
    return NativeSampling(native.library, native.pool)


def _triton_sampling(vocab_size: int, device: torch.device) -> "TritonSampling | None":
    if device.type != "cuda":
        return None
    from quire.kernels.triton.sampling import MAX_VOCAB_SIZE, TritonSampling

    return TritonSampling() if vocab_size <= MAX_VOCAB_SIZE else None


def _why_not(config: EngineConfig) -> str | None:
    """What in the configuration the native kernels do not compute."""
    computed = sorted(str(dtype).removeprefix("torch.") for dtype in DTYPES)
    if config.model.dtype not in computed:
        return f"they compute in {' and '.join(computed)}, not in {config.model.dtype}"
    if config.cache.kv_cache_dtype not in (config.model.dtype, "int8"):
        return f"kv_cache_dtype is {config.cache.kv_cache_dtype}, neither the model's {config.model.dtype} nor int8"
    return None
