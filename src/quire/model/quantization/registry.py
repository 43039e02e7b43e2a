"""Which method reads a checkpoint's linears. A new method is one file and one line here."""

from collections.abc import Mapping
from typing import Any

from quire.core.errors import UnsupportedModel
from quire.kernels.cpu.packing import Packer
from quire.model.quantization.blocks import Blocks
from quire.model.quantization.packed import Packed
from quire.model.quantization.plain import Plain
from quire.model.weights.cursor import Method


def method_for(config: Mapping[str, Any], packer: Packer | None = None, *, is_gguf: bool = False) -> Method:
    """The method that a Hugging Face config names; without a ``quantization_config``, plain weights.

    With a ``packer``, plain weights are laid out for the native kernels, and GGUF's blocks stay blocks. Without one
    they are expanded by their source, and come as plain weights too. Raises UnsupportedModel.
    """
    text = config.get("text_config") or {}
    quantization = config.get("quantization_config") or text.get("quantization_config")
    if not quantization:
        if packer is None:
            return Plain()
        return Blocks(packer) if is_gguf else Packed(packer)
    name = quantization.get("quant_method") if isinstance(quantization, Mapping) else quantization
    raise UnsupportedModel(
        f"The checkpoint is quantized with {name!r}, which is not implemented: take an unquantized checkpoint, or a "
        "GGUF file.",
        param="$.quantization_config",
    )
