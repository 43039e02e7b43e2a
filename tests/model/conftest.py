"""Runs a tiny model over paged KV, in whatever pieces a test wants."""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from json import loads
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from quire.core.errors import CorruptCheckpoint
from quire.model.attention.backend import kv_storage
from quire.model.attention.paged import PagedAttention
from quire.model.context import ForwardContext
from quire.model.families.decoder import CausalLM
from quire.model.families.registry import build
from quire.model.quantization.registry import method_for
from quire.model.weights.cursor import Cursor
from quire.model.weights.safetensors import SafetensorsSource
from quire.model.weights.source import Shape, TensorSource, Window

BLOCK_SIZE = 16
CPU = torch.device("cpu")


@dataclass(frozen=True)
class HeldTensor:
    values: Tensor

    @property
    def shape(self) -> Shape:
        return tuple(self.values.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    def read(self, window: Window, out: Tensor) -> None:
        out.copy_(self.values[window])


class HeldSource:
    """A checkpoint's tensors, in memory."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def names(self) -> AbstractSet[str]:
        return self.tensors.keys()

    def tensor(self, name: str, shape: Shape) -> HeldTensor:
        if name not in self.tensors or tuple(self.tensors[name].shape) != shape:
            raise CorruptCheckpoint(f"{name} is missing or not of shape {shape}")
        return HeldTensor(self.tensors[name])

    def close(self) -> None:
        pass


class Runner:
    """One model, its KV storage and its backend; a sequence's blocks are whichever its index takes."""

    def __init__(self, config: dict[str, Any], source: TensorSource, dtype: torch.dtype) -> None:
        self.cursor = Cursor(source, dtype, CPU, method_for(config))
        self.model: CausalLM = build(config, self.cursor)
        self.backend = PagedAttention(BLOCK_SIZE, CPU)
        self.dtype = dtype
        self.forget(seed=0)

    def forget(self, seed: int, num_sequences: int = 8, blocks_each: int = 16) -> None:
        """Start over with empty KV and other blocks."""
        count = num_sequences * blocks_each
        self.kv = kv_storage(self.backend, self.model.kv_specs, count, self.dtype, CPU)
        order = np.random.default_rng(seed).permutation(count).astype(np.int32)
        self.tables = order.reshape(num_sequences, blocks_each)

    @torch.inference_mode()
    def step(self, rows: Sequence[tuple[int, int, list[int]]]) -> list[Tensor]:
        """Each (sequence, start, tokens), all in one step: the logits [n, V] of each."""
        counts = [len(tokens) for _, _, tokens in rows]
        starts = np.array([start for _, start, _ in rows], np.int32)
        plan = self.backend.plan(starts, np.array(counts, np.int32), self.tables[[i for i, _, _ in rows]])
        positions = torch.cat([torch.arange(start, start + len(tokens)) for _, start, tokens in rows])
        hidden = self.model(
            torch.tensor([token for _, _, tokens in rows for token in tokens]),
            ForwardContext(positions, plan, plan, self.kv),
        )
        return list(self.model.logits(hidden).split(counts))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine take a hundred times as long for matrices this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def runner() -> Callable[..., Runner]:
    """Makes a Runner from a checkpoint's folder, its config or its tensors changed on the way."""

    def unchanged(value: Any) -> Any:
        return value

    def make(
        folder: Path,
        dtype: torch.dtype = torch.float32,
        *,
        config: Callable[[dict[str, Any]], dict[str, Any]] = unchanged,
        tensors: Callable[[dict[str, Tensor]], dict[str, Tensor]] = unchanged,
    ) -> Runner:
        stated = loads((folder / "config.json").read_text())
        return Runner(config(stated), HeldSource(tensors(load_file(folder / "model.safetensors"))), dtype)

    return make


@pytest.fixture(scope="session")
def opened() -> Callable[..., Runner]:
    """Makes a Runner of a checkpoint as its files are."""

    def make(folder: Path, dtype: torch.dtype = torch.float32) -> Runner:
        return Runner(
            loads((folder / "config.json").read_text()), SafetensorsSource([folder / "model.safetensors"]), dtype
        )

    return make
