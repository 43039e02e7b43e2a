"""Kernels in Triton's interpreter, on tensors of the CPU.

Whether a kernel is interpreted is decided while it is decorated, and Triton's own functions while it is imported. So
all of that is imported here, under TRITON_INTERPRET, which is taken back at once: other tests, and the processes they
start, know nothing of it. The interpreter is repaired where it computes what no device does.
"""

import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

HAS_TRITON = importlib.util.find_spec("triton") is not None
if not HAS_TRITON:
    assert sys.platform != "linux" or os.uname().machine != "x86_64", "triton is missing: make setup"
    collect_ignore_glob = ["test_*.py"]


def _import_interpreted() -> None:
    """Import Triton and every file of kernels, to be interpreted."""
    assert "triton" not in sys.modules, "something imported triton before its tests: run tests/triton by themselves"
    from quire.kernels import triton as room

    os.environ["TRITON_INTERPRET"] = "1"
    try:
        _repair()
        importlib.import_module("triton.experimental.gluon")  # else the first launch imports it
        for entry in pkgutil.iter_modules(room.__path__):
            importlib.import_module(f"{room.__name__}.{entry.name}")
    finally:
        del os.environ["TRITON_INTERPRET"]


def _repair() -> None:
    """Six faults and two delays, seen in 3.6 and 3.9 where nothing else is said.

    bfloat16 is kept as uint16: products and sums are those of bit patterns; rounding to it cuts off. Rounding to 8-bit
    floats loses carries. What a comparison of floats finds is taken for a float. Products of tiles are numpy's, where
    on some processors a row's bits depend on its place: in float64 those of narrower floats are exact. In 3.6, with
    numpy >= 2.4, a one-element array is no bound of a range. The language is made the interpreter's anew at each call
    of a function of it, a hundred times slower than the call: here once for all. Exclusive ors, of which sorting is
    made, are taken element by element.
    """
    import triton.language as tl
    from triton._C.libtriton import ir
    from triton.runtime import interpreter as it

    floats = {
        tl.float16: torch.float16,
        tl.bfloat16: torch.bfloat16,
        tl.float32: torch.float32,
        tl.float8e4nv: torch.float8_e4m3fn,
        tl.float8e5: torch.float8_e5m2,
    }
    builder, theirs = it.InterpreterBuilder, it._convert_float

    def convert(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        """To the nearest, ties to even; to 8 bits saturating, as NVIDIA's conversions do."""
        if source not in floats or target not in floats or rounding == ir.ROUNDING_MODE.RTZ:
            return theirs(data, source, target, rounding)
        bits = np.ascontiguousarray(data).view(f"uint{source.primitive_bitwidth}").copy()
        values = torch.from_numpy(bits).view(floats[source])
        if target.primitive_bitwidth == 8:
            limit = torch.finfo(floats[target]).max
            values = values.float().clamp(-limit, limit)
        return values.to(floats[target]).view(getattr(torch, f"uint{target.primitive_bitwidth}")).numpy()

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16 or handle.data.dtype != np.uint16:
            return handle
        return it.TensorHandle(convert(handle.data, tl.bfloat16, tl.float32, None).view(np.float32), tl.float32)

    def on_floats(method: Callable[..., Any]) -> Callable[..., Any]:
        """Elementwise: operands of bfloat16 are widened, and the result is rounded; truths are truths."""

        def computed(self: Any, first: Any, *rest: Any) -> Any:
            wide = widened(first)
            if wide is first:
                result = method(self, first, *rest)
            else:
                result = method(self, wide, *(widened(one) if hasattr(one, "data") else one for one in rest))
            if result.data.dtype == np.bool_:
                return it.TensorHandle(result.data, tl.int1)
            if wide is not first:
                return it.TensorHandle(convert(result.data, tl.float32, tl.bfloat16, None), tl.bfloat16)
            return result

        return computed

    dot = builder.create_dot

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        if d.data.dtype != np.float32:
            return dot(self, widened(a), widened(b), d, *rest)
        nothing = it.TensorHandle(np.zeros(d.data.shape), tl.float64)  # as which the product is then computed
        product = dot(self, widened(a), widened(b), nothing, *rest)
        return it.TensorHandle(product.data.astype(np.float32) + d.data, d.dtype.scalar)

    reduce = it.ReduceOps.apply_impl

    def apply_impl(self: Any, input: Any) -> Any:
        if self.combine_fn is not tl.standard._xor_combine:
            return reduce(self, input)
        found = np.bitwise_xor.reduce(input[0].handle.data, axis=self.axis, keepdims=self.keep_dims)
        return self.to_tensor(found, input[0].dtype)

    patch_tensor = it._patch_lang_tensor

    def patch_lang_tensor(tensor: Any, *rest: Any) -> None:
        patch_tensor(tensor, *rest)
        if rest:  # a scope that takes back what it set; before 3.6 there was none
            rest[0].set_attr(tensor, "__index__", lambda self: int(np.asarray(self.handle.data).reshape(-1)[0]))

    it._convert_float = convert
    it._patch_lang_tensor = patch_lang_tensor
    it._patch_lang(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
    it._patch_lang = lambda fn: SimpleNamespace(restore=lambda: None)
    it.ReduceOps.apply_impl = apply_impl
    builder.create_dot = create_dot
    builder.binary_op, builder.unary_op = on_floats(builder.binary_op), on_floats(builder.unary_op)


if HAS_TRITON:
    _import_interpreted()


@pytest.fixture(autouse=True)
def _as_on_a_device() -> Iterator[None]:
    """Overflow is infinity and no warning; and numbers are the same in every run."""
    torch.manual_seed(0)
    with np.errstate(all="ignore"):
        yield
