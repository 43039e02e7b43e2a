"""Weights of 4 bits in groups, activations as they are: AWQ, GPTQ, and compressed-tensors' packed integers.

The three differ in how a checkpoint stores codes, zeros and scales; ``kernels/ops/w4a16.py`` reads their layouts, and
has one of its own, in which all are held.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quire.core.errors import CorruptCheckpoint
from quire.kernels.ops.w4a16 import SYMMETRIC_ZERO, W4Matrix, W4Numbers, awq, compressed, fuse, gptq, pack, w4a16_linear
from quire.model.fields import Fields
from quire.model.quantization.expressions import compiled
from quire.model.quantization.method import Experts, Side, Weight, unsupported
from quire.model.quantization.ruled import Ruled, names_match, side_by_side
from quire.model.weights.cursor import Part, Stack

_PER_WORD = 8
"""Codes in an int32."""


@dataclass(frozen=True)
class Int4Weight:
    """A weight of 4 bits."""

    matrix: W4Matrix

    def matmul(self, x: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """See Weight.matmul."""
        return w4a16_linear(x, self.matrix, bias, residual)


@dataclass(frozen=True)
class Int4:
    """What the three have in common."""

    group_size: int | None
    """Inputs that share a scale; None: all."""

    def load(self, parts: Sequence[Part], side: Side) -> Weight:
        """See Method.load."""
        assert parts[0].at.group.size == 1, "quantized linears are not cut yet"
        numbers = [self._read(part) for part in parts]
        orders = [one.order for one in numbers]
        if not all(_same(order, orders[0]) for order in orders):
            return side_by_side([_packed([part], [one]) for part, one in zip(parts, numbers, strict=True)])
        return _packed(parts, numbers)

    def experts(self, stack: Stack) -> Experts:
        """Raises UnsupportedModel."""
        raise unsupported(f"The experts under {stack.at.path} are quantized to 4 bits; implemented for experts is fp8.")

    def _read(self, part: Part) -> W4Numbers:
        try:
            return _usual(self._numbers(part))
        except ValueError as error:
            raise unsupported(f"{part.at.path}: {error}.") from None

    def _numbers(self, part: Part) -> W4Numbers:
        raise NotImplementedError

    def _groups(self, part: Part) -> int:
        size = self.group_size or part.in_features
        if part.in_features % size:
            raise CorruptCheckpoint(f"{part.at.path} has {part.in_features} inputs, not whole groups of {size}.")
        return part.in_features // size


@dataclass(frozen=True)
class Awq(Int4):
    """AWQ in its "gemm" layout."""

    def _numbers(self, part: Part) -> W4Numbers:
        at, (num_out, num_in), groups = part.at, part.shape, self._groups(part)
        return awq(
            at.pull("qweight", (num_in, _words(num_out, part)), dtype=torch.int32),
            at.pull("qzeros", (groups, _words(num_out, part)), dtype=torch.int32),
            at.pull("scales", (groups, num_out), dtype=torch.float32),
        )


@dataclass(frozen=True)
class Gptq(Int4):
    """GPTQ, of the format's first version or its second; with the order of activations or without."""

    is_ordered: bool
    is_v2: bool

    def _numbers(self, part: Part) -> W4Numbers:
        at, (num_out, num_in), groups = part.at, part.shape, self._groups(part)
        self._skip_empty_bias(part)
        # Where the configuration says that inputs are in line, g_idx says so too, if it is there.
        has_order = self.is_ordered or "g_idx" in at
        return gptq(
            at.pull("qweight", (_words(num_in, part), num_out), dtype=torch.int32),
            at.pull("qzeros", (groups, _words(num_out, part)), dtype=torch.int32),
            at.pull("scales", (groups, num_out), dtype=torch.float32),
            at.pull("g_idx", (num_in,), dtype=torch.int32) if has_order else None,
            is_v2=self.is_v2,
        )

    def _skip_empty_bias(self, part: Part) -> None:
        """Older quantizers write a bias of zeros for linears that have none."""
        if "bias" in part.at and not part.at.peek("bias", (part.out_features,), torch.float32).any():
            part.at.skip("bias")


@dataclass(frozen=True)
class Packed4(Int4):
    """compressed-tensors' format pack-quantized."""

    is_symmetric: bool
    is_ordered: bool

    def _numbers(self, part: Part) -> W4Numbers:
        at, (num_out, num_in), groups = part.at, part.shape, self._groups(part)
        at.skip("weight_shape")  # known
        if self.is_symmetric:
            at.skip("weight_zero_point")
            zeros = None
        else:
            zeros = at.pull("weight_zero_point", (_words(num_out, part), groups), dtype=torch.int32)
        return compressed(
            at.pull("weight_packed", (num_out, _words(num_in, part)), dtype=torch.int32),
            at.pull("weight_scale", (num_out, groups), dtype=torch.float32),
            zeros,
            at.pull("weight_g_idx", (num_in,), dtype=torch.int32) if self.is_ordered else None,
        )


def awq_method(config: Fields) -> Ruled:
    """The method of a ``quantization_config`` with quant_method awq."""
    config = config.over({"bits": config.values.get("w_bit"), "group_size": config.values.get("q_group_size")})
    _check_bits(config)
    layout = config.text("version", None) or config.text("format", "gemm")
    if layout.lower() != "gemm" or not config.flag("zero_point", True):
        raise unsupported(
            f"The checkpoint is AWQ of version {layout!r} with zero_point {config.values.get('zero_point')!r}; "
            "implemented is gemm with zero points."
        )
    scheme = Awq(_group_size(config))
    is_left_out = names_match(["lm_head", *config.names("modules_to_not_convert")])
    return Ruled(lambda name: None if is_left_out(name) else scheme)


def gptq_method(config: Fields) -> Ruled:
    """The method of a ``quantization_config`` with quant_method gptq."""
    layout = config.text("checkpoint_format", None) or config.text("format", "gptq")
    if layout not in ("gptq", "gptq_v2") or config.flag("is_marlin_format", False):
        raise unsupported(f"The checkpoint's GPTQ format is {layout!r}, or marlin's; implemented are gptq and gptq_v2.")
    if config.text("pack_dtype", "int32") != "int32":
        raise unsupported(f"The checkpoint packs its codes into {config.text('pack_dtype')}; implemented is int32.")
    has_head = config.flag("lm_head", False)
    is_chosen = _chosen(config.values.get("modules_in_block_to_quantize"), config)
    overrides = _overrides(config)

    def rule(name: str) -> Gptq | None:
        if (name.endswith("lm_head") and not has_head) or not is_chosen(name):
            return None
        changes = next((changes for matches, changes in overrides if matches(name)), {})
        if changes is None:
            return None
        own = Fields({**config.values, **changes})
        _check_bits(own)
        return Gptq(_group_size(own), is_ordered=own.flag("desc_act", False), is_v2=layout == "gptq_v2")

    return Ruled(rule)


def _overrides(config: Fields) -> list[tuple[Callable[[str], Any], dict[str, Any] | None]]:
    """What ``dynamic`` says: for names that match, other settings, or None: not quantized. The first that matches."""
    dynamic = config.inner("dynamic")
    found: list[tuple[Callable[[str], Any], dict[str, Any] | None]] = []
    for pattern, changes in (dynamic.values if dynamic else {}).items():
        matches = compiled(pattern.removeprefix("+:").removeprefix("-:")).match
        if not isinstance(changes, dict):
            raise config.wrong("dynamic", "an object of objects")
        found.append((matches, None if pattern.startswith("-:") else changes))
    return found


def _chosen(modules: Any, config: Fields) -> Callable[[str], bool]:
    """Whether a name is in ``modules_in_block_to_quantize``: names, in lists or lists of lists; all, if missing."""
    if not modules:
        return lambda name: True
    lists = modules if isinstance(modules, list) else [modules]
    names = [name for item in lists for name in (item if isinstance(item, list) else [item])]
    if not all(isinstance(name, str) for name in names):
        raise config.wrong("modules_in_block_to_quantize", "lists of names")
    return names_match(names)


def _check_bits(config: Fields) -> None:
    if (bits := config.integer("bits")) != 4:
        raise unsupported(f"The checkpoint's weights are of {bits} bits; implemented are 4.")


def _group_size(config: Fields) -> int | None:
    size = config.values.get("group_size")
    return None if size == -1 else config.integer("group_size")


def _packed(parts: Sequence[Part], numbers: Sequence[W4Numbers]) -> Int4Weight:
    try:
        return Int4Weight(pack(_narrow(fuse(numbers))))
    except ValueError as error:
        raise unsupported(f"{parts[0].at.path}: {error}.") from None


def _usual(numbers: W4Numbers) -> W4Numbers:
    """Without zeros, where they are what they would be without them."""
    is_usual = numbers.zeros is not None and bool((numbers.zeros == SYMMETRIC_ZERO).all())
    return numbers._replace(zeros=None) if is_usual else numbers


def _narrow(numbers: W4Numbers) -> W4Numbers:
    """Scales in 16 bits, where that changes none of them."""
    for dtype in (torch.float16, torch.bfloat16):
        narrow = numbers.scales.to(dtype)
        if torch.equal(narrow.float(), numbers.scales):
            return numbers._replace(scales=narrow)
    return numbers


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


def _words(codes: int, part: Part) -> int:
    if codes % _PER_WORD:
        raise unsupported(f"{part.at.path} is of shape {list(part.shape)}; of 4 bits, its sides must be in eights.")
    return codes // _PER_WORD
