"""What an engine on a CUDA device computes with."""

import importlib.util
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from quire.kernels import ops
from quire.kernels.bodies import bring_bodies
from quire.kernels.ops.registry import all_ops

bring_bodies("cpu")
assert "triton" not in sys.modules
bring_bodies("cuda")
print(*(name for name, one in all_ops(ops).items() if "cuda" in one.bodies))
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_an_engine_on_a_cuda_device_has_bodies_for_what_models_call() -> None:
    """In a process of its own: elsewhere Triton may be interpreted."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    called = {"linear", "rms_norm", "silu_and_mul", "store_heads", "paged_attention", "embedding", "logits"}
    called |= {"fp8_linear", "w8a8_linear", "w4a16_linear", "route", "experts_mlp"}
    assert called <= set(done.stdout.split())
