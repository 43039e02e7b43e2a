"""What no machine has is refused: weights whose bytes cannot be counted, threads that cannot be started."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from quire.kernels.cpu.block_packing import empty_blocks
from quire.kernels.cpu.packing import Packer
from quire.kernels.cpu.program import CannotRecord

pytestmark = pytest.mark.native

SIZES = [(2**58 + 16, 16), (2**60 + 64, 256), (256, 2**60 + 256), (2**62, 2**62)]
"""[out, in], whose bytes, counted in 64 bits, come to few, to none, or to less than none."""

START_MORE_THREADS_THAN_FIT = """
import resource
from quire.core.errors import ConfigError
from quire.kernels.cpu.library import Pool, available

library = available()[0]
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (60 << 20), -1))
try:
    Pool(library, 1000)
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_weights_of_more_bytes_than_can_be_counted(native: Any, size: tuple[int, int]) -> None:
    packer = Packer(native.library, native.pool)
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(CannotRecord, match=f"{size[0]}, {size[1]}"):
            packer.empty(*size, dtype)
    for block_type in ("Q4_0", "Q6_K"):
        with pytest.raises(CannotRecord, match=f"{size[0]}, {size[1]}"):
            empty_blocks(packer, *size, block_type, torch.float32)
    assert native.library.quire_blocks_workspace_bytes(*size) < 0


def test_threads_that_cannot_be_started() -> None:
    """Those that could be are ended, and the process goes on: their stacks do not fit into what it may address."""
    command = [sys.executable, "-c", START_MORE_THREADS_THAN_FIT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "num_threads is 1000" in done.stdout
