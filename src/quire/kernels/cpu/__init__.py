"""The native kernels of a CPU. Importing anything of this room offers its bodies to the operators."""

from quire.kernels.cpu import blocks, bodies

__all__ = ["blocks", "bodies"]
