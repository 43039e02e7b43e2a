"""What computes a model: the native kernels where they can, else torch, and a line that says why."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from quire.core.config import EngineConfig
from quire.core.errors import ConfigError, UnsupportedModel
from quire.engine.build import build_engine
from quire.kernels import platform

FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


def config(path: Path, **settings: object) -> EngineConfig:
    sizes = {"max_model_len": 64, "num_gpu_blocks_override": 8, "max_num_seqs": 2, "num_threads": 1, "device": "cpu"}
    return EngineConfig.of(model=str(path), **(sizes | settings))


@pytest.fixture
def quantized(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A configuration without weights."""
    stated = json.loads((tiny_checkpoint("llama") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stated | {"quantization_config": FP8}))
    return tmp_path


@pytest.mark.native
def test_mixtures_of_experts_are_left_to_torch(
    tiny_checkpoint: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = tiny_checkpoint("qwen3_moe")
    with caplog.at_level(logging.INFO, "quire.engine"):
        build_engine(config(path))
    assert "computing with torch, several times slower: the native kernels do not compute mixtures" in caplog.text
    with pytest.raises(UnsupportedModel, match="mixtures of experts"):
        build_engine(config(path, cpu_kernels="native"))


@pytest.mark.native
def test_quantized_checkpoints_are_left_to_torch(quantized: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "quire.engine"):
        build_engine(config(quantized, load_format="dummy"))
    assert "the native kernels do not multiply by weights quantized with fp8" in caplog.text


def test_the_quantization_asked_for_must_be_the_checkpoint_s(quantized: Path) -> None:
    build_engine(config(quantized, load_format="dummy", quantization="fp8", cpu_kernels="torch"))
    with pytest.raises(ConfigError, match="quantization is awq, but the checkpoint is quantized with fp8"):
        build_engine(config(quantized, load_format="dummy", quantization="awq", cpu_kernels="torch"))


@pytest.mark.native
@pytest.mark.parametrize(
    ("family", "kernels", "dtype"),
    [("llama", "auto", "bfloat16"), ("llama", "torch", "float32"), ("qwen3_moe", "auto", "float32")],
)
def test_bfloat16_stays_where_its_products_are_ours(
    tiny_checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    kernels: str,
    dtype: str,
) -> None:
    """On a CPU without bfloat16 too, for which torch has no kernels."""
    stated = json.loads((tiny_checkpoint(family) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stated | {"dtype": "bfloat16"}))
    monkeypatch.setattr(platform, "_cpu_has_bfloat16", lambda: False)
    _, info = build_engine(config(tmp_path, load_format="dummy", cpu_kernels=kernels))
    assert info.dtype == dtype
