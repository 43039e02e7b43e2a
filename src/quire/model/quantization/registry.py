"""Which method reads a checkpoint's linears. A new method is one file and one line here."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from quire.core.errors import ConfigError
from quire.kernels.cpu.packing import Packer
from quire.kernels.cpu.program import CannotRecord
from quire.model.fields import Fields
from quire.model.quantization.blocks import Blocks
from quire.model.quantization.compressed import compressed_tensors
from quire.model.quantization.fp8 import fp8
from quire.model.quantization.int4 import awq_method, gptq_method
from quire.model.quantization.method import unsupported
from quire.model.quantization.packed import Packed
from quire.model.quantization.plain import Plain
from quire.model.weights.cursor import Method

METHODS: Mapping[str, Callable[[Fields], Method]] = MappingProxyType(
    {
        "fp8": fp8,
        "awq": awq_method,
        "gptq": gptq_method,
        "compressed-tensors": compressed_tensors,
    }
)
"""By the name in a ``quantization_config``'s ``quant_method``."""


def method_for(
    config: Mapping[str, Any], packer: Packer | None = None, *, is_gguf: bool = False, asked: str = "auto"
) -> Method:
    """The method that a Hugging Face config names; without a ``quantization_config``, plain weights.

    With a ``packer``, plain weights are laid out for the native kernels, and GGUF's blocks stay blocks. Without one
    they are expanded by their source, and come as plain weights too. ``asked`` is what the user says the method is.
    Raises UnsupportedModel; ConfigError if it is another; CannotRecord if the native kernels do not compute it.
    """
    found = Fields(config).inner("quantization_config")
    if found is None and (text := Fields(config).inner("text_config")):
        found = text.inner("quantization_config")
    name = "gguf" if is_gguf else found.text("quant_method") if found else None
    if asked not in ("auto", name):
        raise ConfigError(_disagreement(asked, name))
    if found is None or is_gguf:
        if packer is None:
            return Plain()
        return Blocks(packer) if is_gguf else Packed(packer)
    if name is None or name not in METHODS:
        raise unsupported(
            f"The checkpoint is quantized with {name!r}, which is not implemented. Implemented are "
            f"{', '.join(METHODS)}, and GGUF files."
        )
    method = METHODS[name](found)
    if packer is not None:
        raise CannotRecord(f"the native kernels do not multiply by weights quantized with {name}")
    return method


def _disagreement(asked: str, name: str | None) -> str:
    if name is None:
        return (
            f"quantization is {asked}, but the checkpoint is not quantized: Quire reads checkpoints that are, and "
            "quantizes none itself. Take one that is, or leave --quantization out."
        )
    return f"quantization is {asked}, but the checkpoint is quantized with {name}: leave --quantization out."
