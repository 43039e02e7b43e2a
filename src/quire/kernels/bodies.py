"""Brings the operators' bodies for a device: the files of kernels/triton, which offer theirs when they are imported."""

import importlib
import importlib.util
import pkgutil

from quire.core.errors import ConfigError


def bring_bodies(device_type: str) -> None:
    """Import what computes on such devices beside torch. To be called before a model is loaded for one.

    Raises ConfigError where Triton is needed and not installed.
    """
    if device_type != "cuda":
        return  # the native kernels of CPUs come with what opens them
    if importlib.util.find_spec("triton") is None:
        raise ConfigError("device is cuda, but Triton is not installed, which compiles the kernels for it: install it.")
    room = importlib.import_module("quire.kernels.triton")
    for entry in pkgutil.iter_modules(room.__path__):
        importlib.import_module(f"{room.__name__}.{entry.name}")
