"""What no machine has is refused: weights whose bytes cannot be counted, threads that cannot be started."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.native

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


def test_threads_that_cannot_be_started() -> None:
    """Those that could be are ended, and the process goes on: their stacks do not fit into what it may address."""
    command = [sys.executable, "-c", START_MORE_THREADS_THAN_FIT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "num_threads is 1000" in done.stdout
