"""The device under measurement, or a CPU that stands for it in a trial."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import torch

from quire.kernels import platform


@contextmanager
def beside(is_beside: bool = True) -> Iterator[None]:
    """Whether engines take the device for one that computes beside the host, whatever it is."""
    inspect = platform.inspect

    def told(device: str = "auto") -> platform.Machine:
        return replace(inspect(device), computes_beside_host=is_beside)

    with patch.object(platform, "inspect", told):
        yield


def wait(device: torch.device) -> None:
    """Until all that was launched is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
