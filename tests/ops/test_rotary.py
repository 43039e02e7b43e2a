"""Rotation: its definition, and what makes it a position embedding."""

import pytest
import torch
from torch import Tensor

from quire.kernels.ops.rotary import rotate

INV_FREQ = 100.0 ** -(torch.arange(0, 16, 2) / 16)


def turned(x: Tensor, positions: Tensor) -> Tensor:
    angles = positions[:, None].float() * INV_FREQ
    return rotate(x, angles.cos(), angles.sin())


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_turns_pairs_half_a_head_apart(dtype: torch.dtype) -> None:
    x, positions = torch.randn(4, 3, 16).to(dtype), torch.tensor([0, 1, 17, 5])
    pairs = torch.complex(x[..., :8].double(), x[..., 8:].double())
    expected = pairs * torch.exp(1j * (positions[:, None].double() * INV_FREQ))[:, None]
    out = turned(x, positions)
    assert out.dtype == dtype
    assert out.is_contiguous()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(
        out.double(), torch.cat((expected.real, expected.imag), -1), rtol=tolerance, atol=tolerance
    )


def test_products_depend_on_distance_alone() -> None:
    q, k = torch.randn(1, 1, 16), torch.randn(1, 1, 16)

    def product(at: int, distance: int) -> Tensor:
        return (turned(q, torch.tensor([at + distance])) * turned(k, torch.tensor([at]))).sum()

    torch.testing.assert_close(product(0, 3), product(40, 3), rtol=1e-4, atol=1e-5)
    assert not torch.isclose(product(0, 3), product(0, 4))


def test_rows_do_not_depend_on_neighbours_or_strides() -> None:
    x, positions = torch.randn(40, 5, 16)[:, 1:4], torch.arange(40) * 97
    whole = turned(x, positions)
    for count in (1, 3, 7, 33):
        assert torch.equal(turned(x[5 : 5 + count].contiguous(), positions[5 : 5 + count]), whole[5 : 5 + count])
