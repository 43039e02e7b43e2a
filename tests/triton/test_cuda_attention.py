"""The backend of a CUDA device, on tensors of the CPU: same plans, same tokens as the reference's."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from quire import LLM, SamplingParams
from quire.engine.worker import backend as worker
from quire.engine.worker.sizes import Sizes
from quire.kernels import platform
from quire.model.attention.backend import AttentionPlan, DeviceAttention, kv_storage
from quire.model.attention.cuda import CudaAttention
from quire.model.attention.paged import PagedAttention
from quire.model.families.decoder import CausalLM
from quire.model.kv import KVSpec, KVStorage

CPU = torch.device("cpu")
SPEC = KVSpec(num_kv_heads=2, head_dim=16)
STARTS, COUNTS = np.array([19, 0, 63, 5], np.int32), np.array([1, 40, 1, 9], np.int32)
TABLES = np.random.default_rng(0).permutation(20).reshape(4, 5).astype(np.int32)


class Layer:
    """One layer over two backends that have the same KV."""

    def __init__(self) -> None:
        self.ours, self.reference = CudaAttention(16, CPU, max_context=80), PagedAttention(16, CPU)
        pages = torch.randn(2, 20, 2, 16, 16)
        self.kv = {backend: self.storage(backend, pages) for backend in (self.ours, self.reference)}
        angles = torch.rand(int(COUNTS.sum()), 8)
        self.rotation = angles.cos(), angles.sin()
        self.qkv = torch.randn(int(COUNTS.sum()), 8 + 4, 16)

    def storage(self, backend: Any, pages: Tensor) -> KVStorage:
        kv = kv_storage(backend, [SPEC], 20, torch.float32, CPU)
        for ours, given in zip(kv.layers[0], pages, strict=True):
            ours.copy_(given)
        return kv

    def run(self, plan: AttentionPlan, window: int | None = None) -> Tensor:
        more: Any = dict(num_heads=8, scale=0.3, sliding_window=window, softcap=None)
        qkv, rotation = self.qkv[: len(plan.slot_mapping)], [t[: len(plan.slot_mapping)] for t in self.rotation]
        return plan.backend.run(0, qkv, None, (rotation[0], rotation[1]), plan, self.kv[plan.backend], **more)


@pytest.mark.parametrize("window", (None, 12))
def test_a_step_of_tokens_and_chunks(window: int | None) -> None:
    layer = Layer()
    plans = [backend.plan(STARTS, COUNTS, TABLES) for backend in (layer.ours, layer.reference)]
    ours, theirs = (layer.run(plan, window) for plan in plans)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for rows in (np.array([0, 40, 41, 50]), np.arange(20, 51), np.array([30, 40])):
        ours, theirs = (layer.run(plan.backend.narrow(plan, rows), window) for plan in plans)
        assert len(ours) == len(rows)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_layers_share_what_a_plan_counted() -> None:
    layer = Layer()
    plan = layer.ours.plan(STARTS, COUNTS, TABLES)
    first = layer.run(plan)
    units, tiles = plan.units[None], next(iter(plan.tiles.values()))
    layer.run(plan, window=12)
    assert torch.equal(layer.run(plan), first)
    assert plan.units[None] is units and set(plan.units) == {None, 12}
    assert next(iter(plan.tiles.values())) is tiles
    assert tiles[:, 0].unique().tolist() == [1, 3]


def test_a_plan_of_tensors_is_that_of_arrays() -> None:
    layer = Layer()
    counts = np.ones(4, np.int32)
    plan = layer.ours.plan(STARTS, counts, TABLES)
    other = layer.ours.plan_on_device(
        slot_mapping=plan.slot_mapping,
        block_tables=plan.block_tables,
        query_starts=torch.arange(5, dtype=torch.int32),
        context_lens=torch.from_numpy(STARTS + 1),
        max_query=1,
        max_context=80,
    )
    assert torch.equal(layer.run(plan), layer.run(other))


def test_a_recorded_step_with_chunks_is_that_of_arrays() -> None:
    """The same tensors serve several steps; what fills them up is nobody's, and attends to nothing."""
    layer = Layer()
    longest, num_seqs = int(COUNTS.sum()), len(COUNTS) + 1
    slot_mapping = torch.empty(longest, dtype=torch.int64)
    tables = torch.zeros((num_seqs, TABLES.shape[1]), dtype=torch.int32)
    query_starts, context_lens = (torch.zeros(n, dtype=torch.int32) for n in (num_seqs + 1, num_seqs))
    chunks = layer.ours.chunks(longest, num_seqs)
    recorded = layer.ours.plan_on_device(
        slot_mapping=slot_mapping,
        block_tables=tables,
        query_starts=query_starts,
        context_lens=context_lens,
        max_query=1,
        max_context=80,
        chunks=chunks,
    )
    slot_mapping[:] = torch.arange(longest) % 16
    layer.run(recorded)  # as when it is recorded: nobody is there
    for counts in (COUNTS, np.array([1, 1, 2, 33], np.int32), COUNTS[:2], np.ones(3, np.int32)):
        count, starts = len(counts), STARTS[: len(counts)]
        plan = layer.ours.plan(starts, counts, TABLES[:count])
        slot_mapping[: len(plan.slot_mapping)] = plan.slot_mapping
        slot_mapping[len(plan.slot_mapping) :] = 19 * 16
        tables[:count], context_lens[:] = torch.from_numpy(TABLES[:count]), 0
        context_lens[:count], query_starts[: count + 1] = plan.context_lens, plan.query_starts
        query_starts[count + 1 :] = int(counts.sum())
        chunks.tell(counts, starts + counts)
        recorded.units.clear()  # as a step that is replayed counts them anew
        found = layer.run(recorded)
        assert torch.equal(found[: counts.sum()], layer.run(plan))
        assert not found[counts.sum() :].any()


def test_what_it_cannot_run_is_said() -> None:
    assert CudaAttention.why_not([SPEC], torch.bfloat16) is None
    assert "int8" in str(CudaAttention.why_not([SPEC], torch.int8))
    assert "heads of 24" in str(CudaAttention.why_not([SPEC, KVSpec(1, 24)], torch.bfloat16))


def test_a_model_says_the_same(tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without windows: prompts in chunks beside decodes, and recorded steps."""

    def attention(model: CausalLM, sizes: Sizes, device: torch.device) -> DeviceAttention:
        assert CudaAttention.why_not(model.kv_specs, sizes.kv_dtype) is None
        return CudaAttention(sizes.block_size, device, max_context=sizes.max_model_len)

    inspect = platform.inspect
    monkeypatch.setattr(platform, "inspect", lambda device: replace(inspect(device), computes_beside_host=True))
    prompts = [[(7 * i + 3 * j * j + length) % 250 + 2 for j in range(length)] for i, length in enumerate((40, 3))]

    def answers() -> list[list[int]]:
        sizes = {"max_num_batched_tokens": 32, "max_num_seqs": 2, "max_model_len": 96, "block_size": 16}
        rest = {"cpu_kernels": "torch", "dtype": "float32", "num_gpu_blocks_override": 40}
        llm = LLM(str(tiny_checkpoint("gemma3")), **(sizes | rest))
        params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
        return [output.outputs[0].token_ids for output in llm.generate(prompts, params, use_tqdm=False)]

    expected = answers()
    monkeypatch.setattr(worker, "device_attention", attention)
    assert answers() == expected
