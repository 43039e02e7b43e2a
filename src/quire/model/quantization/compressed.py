"""compressed-tensors: one configuration for many ways to quantize, group by group of linears.

Of the ways: fp8 with scales of rows, tensors or blocks, int8, and packed integers of 4 bits. What a group states beyond
what is implemented is refused by name. Source: the format's own project, compressed-tensors 0.13.
"""

from collections.abc import Callable

from quire.core.errors import UnsupportedModel
from quire.kernels.ops.fp8 import BLOCK
from quire.model.fields import Fields
from quire.model.quantization.fp8 import Fp8Blocks, Fp8Rows
from quire.model.quantization.int4 import Packed4
from quire.model.quantization.int8 import Int8Rows
from quire.model.quantization.method import unsupported
from quire.model.quantization.ruled import Ruled, Scheme, names_match


def compressed_tensors(config: Fields) -> Ruled:
    """The method of a ``quantization_config`` with quant_method compressed-tensors."""
    status = config.text("quantization_status", "compressed")
    if status not in ("compressed", "frozen"):
        raise unsupported(f"The checkpoint's quantization_status is {status!r}; implemented is compressed.")
    for key in ("sparsity_config", "transform_config"):
        inner = config.inner(key)
        if inner and any(inner.values.values()) and inner.values.get("format") != "dense":
            raise unsupported(f"The checkpoint has a {key}, which is not implemented: {str(inner.values)[:100]}.")
    stated = config.inner("config_groups")
    if not stated or not stated.values:
        raise config.wrong("config_groups", "an object of groups")
    groups = [_read_group(name, stated, config.text("format", None)) for name in stated.values]
    is_left_out = names_match(config.names("ignore"))

    def rule(name: str) -> Scheme | None:
        if is_left_out(name):
            return None
        return next((scheme for matches, scheme in groups if matches(name)), None)

    return Ruled(rule)


def _read_group(name: str, groups: Fields, outer_format: str | None) -> tuple[Callable[[str], bool], Scheme]:
    """Which linears a group is of, and how they are quantized."""
    group = groups.inner(name)
    if group is None:
        raise groups.wrong(name, "an object")
    targets = group.names("targets")
    is_everywhere = "Linear" in targets
    matches = names_match(targets)
    weights = group.inner("weights")
    if weights is None or group.inner("output_activations") is not None:
        raise _refusal(name, group)
    scheme = _scheme(weights, group.inner("input_activations"), group.text("format", None) or outer_format)
    if scheme is None:
        raise _refusal(name, group)
    return (lambda linear: is_everywhere or matches(linear)), scheme


def _scheme(weights: Fields, inputs: Fields | None, form: str | None) -> Scheme | None:
    kind, strategy = _kind(weights), weights.text("strategy", "tensor")
    is_symmetric, is_rows = weights.flag("symmetric", True), strategy in ("tensor", "channel")
    if kind == "int4":
        return None if inputs or form != "pack-quantized" else _packed4(weights, strategy, is_symmetric)
    if inputs is None or not is_symmetric or not inputs.flag("symmetric", True) or _kind(inputs) != kind:
        return None
    is_dynamic, of_inputs = inputs.values.get("dynamic") is True, inputs.text("strategy", "tensor")
    is_static = not is_dynamic and of_inputs == "tensor"
    if form not in (None, "naive-quantized", {"float8": "float-quantized", "int8": "int-quantized"}.get(kind)):
        return None
    if kind == "float8" and strategy == "block":
        is_square = weights.values.get("block_structure") in ([BLOCK, BLOCK], f"{BLOCK}x{BLOCK}")
        is_fine = is_dynamic and of_inputs == "group" and inputs.integer("group_size", BLOCK) == BLOCK
        return Fp8Blocks("weight_scale") if is_square and is_fine else None
    if not is_rows or not (is_static or (is_dynamic and of_inputs in ("token", "tensor"))):
        return None
    if kind == "float8":
        return Fp8Rows(is_per_tensor=strategy == "tensor", is_static=is_static)
    return Int8Rows(is_per_tensor=strategy == "tensor", is_static=is_static) if kind == "int8" else None


def _packed4(weights: Fields, strategy: str, is_symmetric: bool) -> Packed4 | None:
    order = weights.values.get("actorder")
    if strategy not in ("group", "channel") or order not in (None, False, True, "weight", "static", "group", "dynamic"):
        return None
    size = weights.integer("group_size") if strategy == "group" else None
    return Packed4(size, is_symmetric, is_ordered=order in (True, "group", "dynamic"))


def _kind(numbers: Fields) -> str:
    """float8, int8, int4, or what else it may be."""
    return f"{numbers.text('type', 'int')}{numbers.integer('num_bits', 8)}"


def _refusal(name: str, group: Fields) -> UnsupportedModel:
    stated = {key: value for key, value in group.values.items() if value is not None}
    return unsupported(
        f"The checkpoint's quantization group {name} is {str(stated)[:400]}. Implemented are fp8 and int8 weights and "
        "activations, symmetric, with scales of tensors or channels (static, or dynamic for each token), fp8 in blocks "
        "of 128 x 128, and pack-quantized weights of 4 bits."
    )
