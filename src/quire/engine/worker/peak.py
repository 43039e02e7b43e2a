"""What a step takes of a device's memory, measured: the greatest one is computed once, before the KV cache is sized."""

import gc

import numpy as np
import torch

from quire.engine.worker.forward import Batch, EagerForward
from quire.engine.worker.sizes import Sizes
from quire.model.attention.backend import AttentionBackend, kv_storage
from quire.model.families.decoder import CausalLM

_SPARE_BYTES = 512 * 2**20
"""For what comes later: recorded steps, workspaces of libraries, pieces between the allocator's blocks."""


@torch.inference_mode()
def step_bytes(model: CausalLM, attention: AttentionBackend, sizes: Sizes, device: torch.device) -> int:
    """Bytes of the device that the greatest step, and then a row of logits for each sequence, take at their peak."""
    counts = _counts(sizes.max_num_tokens, sizes.max_model_len)
    tables = _tables(counts, sizes.block_size)
    storage = kv_storage(attention, model.kv_specs, int(tables.max()) + 1, sizes.kv_dtype, device)
    forward = EagerForward(model, storage, attention, device)
    starts = np.zeros(len(counts), np.int32)
    positions = np.concatenate([np.arange(count, dtype=np.int64) for count in counts.tolist()])
    asked = np.arange(sizes.max_num_tokens)[-sizes.max_num_seqs :]
    tokens = np.zeros(sizes.max_num_tokens, np.int32)
    before = _reset(device)
    forward.run(Batch(tokens, positions, starts, counts, tables, asked))
    forward.likeliest(np.arange(len(asked)))
    taken = _peak(device) - before
    del forward, storage
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return taken + _SPARE_BYTES


def _counts(num_tokens: int, most: int) -> np.ndarray:
    """[S] int32: sequences of at most ``most`` tokens that have ``num_tokens`` together."""
    whole, rest = divmod(num_tokens, most)
    return np.array([most] * whole + [rest] * (rest > 0), np.int32)


def _tables(counts: np.ndarray, block_size: int) -> np.ndarray:
    """[S, nb] int32: blocks for these, all different."""
    width = -(-int(counts.max()) // block_size)
    return np.arange(len(counts) * width, dtype=np.int32).reshape(len(counts), width)


def _reset(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _peak(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)
