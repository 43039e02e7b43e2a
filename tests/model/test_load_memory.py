"""Loading needs the memory of the weights, and little beside it: files are read, not held."""

import os
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import save_file

from quire.checkpoint.gguf import GGUFFile
from quire.kernels.cpu.library import Pool, available
from quire.kernels.cpu.packing import Packer
from quire.model.quantization.blocks import Blocks
from quire.model.quantization.packed import Packed
from quire.model.weights.cursor import Cursor, Method, Part
from quire.model.weights.gguf import GGUFSource
from quire.model.weights.safetensors import SafetensorsSource
from quire.model.weights.source import TensorSource

pytestmark = pytest.mark.native

VOCAB, HIDDEN = 16_384, 2048
NAME = "model.embed_tokens"


def memory() -> int:
    """Bytes that this process holds of its own; not the libraries' code, of which the system drops what it likes."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def bfloat16(folder: Path, packer: Packer) -> tuple[TensorSource, Method]:
    save_file({f"{NAME}.weight": torch.ones(VOCAB, HIDDEN, dtype=torch.bfloat16)}, folder / "model.safetensors")
    return SafetensorsSource([folder / "model.safetensors"]), Packed(packer)


def float32(folder: Path, packer: Packer) -> tuple[TensorSource, Method]:
    save_file({f"{NAME}.weight": torch.ones(VOCAB, HIDDEN)}, folder / "model.safetensors")
    return SafetensorsSource([folder / "model.safetensors"]), Packed(packer)


def blocks(folder: Path, packer: Packer) -> tuple[TensorSource, Method]:
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    rows = np.zeros((VOCAB, HIDDEN // 32 * 34), np.uint8)
    writer.add_tensor("token_embd.weight", rows, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    config = dict(num_hidden_layers=0, num_attention_heads=1, num_key_value_heads=1)
    return GGUFSource(GGUFFile(folder / "model.gguf"), config), Blocks(packer)


def peak_of_loading(opened: Callable[[Path, Packer], tuple[TensorSource, Method]], folder: Path) -> int:
    """Bytes beyond what the process had before, looked at whenever something has been read.

    For a fresh process, whose heap has no history that could show, and of which nothing need be put back.
    """
    library = available()[0]
    packer = Packer(library, Pool(library, 2))
    source, method = opened(folder, packer)
    part = Part(Cursor(source, torch.bfloat16, torch.device("cpu"), method) / NAME, VOCAB, HIDDEN)
    seen = [memory()]
    read = os.preadv

    def preadv(*of: Any) -> int:
        count = read(*of)
        seen.append(memory())
        return count

    os.preadv = preadv
    table = method.table(part)
    seen.append(memory())
    assert table and len(seen) > 5
    return max(seen) - seen[0]


@pytest.mark.parametrize(("opened", "bits"), [(bfloat16, 16), (float32, 16), (blocks, 8.5)])
def test_the_peak_is_near_the_weights(
    opened: Callable[[Path, Packer], tuple[TensorSource, Method]],
    bits: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Float32 files become bfloat16 on the way, and pass through a few MB more."""
    size = int(VOCAB * HIDDEN * bits / 8)
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(1 << 18))  # what is freed is given back, not kept in case
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        peak = fresh.submit(peak_of_loading, opened, tmp_path).result()
    assert size * 0.9 < peak < size * 1.2
