"""KV storage and the plan of a step."""

import numpy as np
import pytest
import torch

from quire.kernels.pages import Pages
from quire.model.attention.backend import kv_storage
from quire.model.attention.native import NativeAttention
from quire.model.attention.paged import PagedAttention
from quire.model.kv import KVSpec, KVStorage

CPU = torch.device("cpu")
SPECS = [KVSpec(2, 16), KVSpec(1, 8, sliding_window=4)]


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16, torch.int8))
def test_pages_are_zero_and_of_the_stated_size(dtype: torch.dtype) -> None:
    storage = kv_storage(PagedAttention(4, CPU), SPECS, 5, dtype, CPU)
    pages = [tensor for pair in storage.layers for tensor in pair]
    scale = 4 if dtype == torch.int8 else 0
    assert [tuple(tensor.shape) for tensor in pages] == [(5, 2, 4, 16 + scale)] * 2 + [(5, 1, 4, 8 + scale)] * 2
    assert all(tensor.dtype == dtype and not tensor.any() for tensor in pages)
    assert sum(tensor.nbytes for tensor in pages) == 5 * KVStorage.bytes_per_block(SPECS, 4, dtype)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.int8))
def test_native_pages_are_of_the_stated_size(dtype: torch.dtype) -> None:
    specs = [KVSpec(2, 16), KVSpec(1, 48)]
    storage = kv_storage(NativeAttention(16, max_tokens=1, max_seqs=1, max_blocks=1), specs, 5, dtype, CPU)
    pages = [tensor for pair in storage.layers for tensor in pair]
    assert sum(tensor.nbytes for tensor in pages) == 5 * KVStorage.bytes_per_block(specs, 16, dtype)
    assert all(tensor.shape[:2] == (5, spec.num_kv_heads) for tensor, spec in zip(pages[::2], specs, strict=True))


def test_unused_pages_take_no_memory() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1])

    before = resident()
    storage = kv_storage(PagedAttention(64, CPU), SPECS, 2**16, torch.float32, CPU)
    grown_bytes = (resident() - before) * 4096
    assert KVStorage.bytes_per_block(SPECS, 64, torch.float32) * 2**16 > 2**30
    assert grown_bytes < 2**26
    assert len(storage.layers[0][0]) == 2**16


@pytest.mark.parametrize("can_release", [True, False])
def test_released_pages_are_zero_and_stay_where_they_are(monkeypatch: pytest.MonkeyPatch, can_release: bool) -> None:
    monkeypatch.setattr(Pages, "can_release", can_release and Pages.can_release)
    storage = kv_storage(PagedAttention(4, CPU), SPECS, 4, torch.float32, CPU)
    pages = [tensor for pair in storage.layers for tensor in pair]
    addresses = [tensor.data_ptr() for tensor in pages]
    for _ in range(2):
        for tensor in pages:
            tensor.normal_()
        storage.release()
        storage.restore()
        assert not any(tensor.any() for tensor in pages)
        assert [tensor.data_ptr() for tensor in pages] == addresses


def test_copy_reads_before_it_writes() -> None:
    storage = kv_storage(PagedAttention(4, CPU), SPECS, 4, torch.float32, CPU)
    before = []
    for key, value in storage.layers:
        key.normal_(), value.normal_()
        before.append((key.clone(), value.clone()))
    storage.copy(np.array([[0, 1, 3], [1, 2, 2]], np.int32))
    storage.copy(np.empty((0, 3), np.int32))
    for pair, old in zip(storage.layers, before, strict=True):
        for now, then in zip(pair, old, strict=True):
            assert torch.equal(now[1, :, :3], then[0, :, :3])
            assert torch.equal(now[2, :, :2], then[1, :, :2])
            assert torch.equal(now[[0, 3]], then[[0, 3]])


def test_plan_places_every_token() -> None:
    tables = np.array([[7, 3, 0], [2, 5, 9], [4, 0, 0]], np.int32)
    starts, counts = np.array([2, 11, 0], np.int32), np.array([4, 1, 3], np.int32)
    plan = PagedAttention(4, CPU).plan(starts, counts, tables)
    assert plan.slot_mapping.tolist() == [30, 31, 12, 13, 39, 16, 17, 18]
    assert plan.query_starts.tolist() == [0, 4, 5, 8]
    assert plan.context_lens.tolist() == [6, 12, 3]
    assert plan.block_tables.tolist() == tables.tolist()
    assert PagedAttention(4, CPU).supports(SPECS[1]) is None
