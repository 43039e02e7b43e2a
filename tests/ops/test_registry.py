"""Operators: the reference runs unless the device type of the first tensor has a body of its own."""

import pytest
import torch
from torch import Tensor

from quire.kernels import ops
from quire.kernels.ops.registry import all_ops, op


def test_a_body_takes_its_device_type_only() -> None:
    @op
    def double(x: Tensor, times: int = 1) -> Tensor:
        """Twice x."""
        return 2 * x * times

    assert double.__name__ == "double"
    assert double.__doc__ == "Twice x."
    assert double(torch.ones(1)).tolist() == [2]

    @double.on("meta")
    def _(x: Tensor, times: int = 1) -> Tensor:
        return x.new_empty(3)

    assert double(torch.ones(1), times=2).tolist() == [4]
    assert double(torch.ones(1, device="meta")).shape == (3,)
    assert list(double.bodies) == ["meta"]


def test_a_device_type_has_one_body() -> None:
    @op
    def same(x: Tensor) -> Tensor:
        return x

    same.on("cpu")(lambda x: x + 1)
    with pytest.raises(AssertionError, match="same has a body for cpu already"):
        same.on("cpu")(lambda x: x + 2)


def test_every_operator_is_found_and_has_a_contract() -> None:
    found = all_ops(ops)
    assert {"linear", "dequantize"} <= found.keys()
    assert all(made.reference.__doc__ for made in found.values())
