"""Native operators on rows and plain weights: as right as the reference, and the same bits whoever is beside a row."""

from typing import Any

import pytest
import torch
from torch import Tensor

from quire.kernels.ops.activation import gelu_tanh_and_mul, silu_and_mul
from quire.kernels.ops.norm import rms_norm
from quire.kernels.ops.packed import (
    packed_embedding,
    packed_likeliest,
    packed_linear,
    packed_logits,
)
from quire.kernels.ops.rotary import angles
from quire.kernels.ops.rows import take_rows

pytestmark = pytest.mark.native

DTYPES = [torch.float32, torch.bfloat16]
SIZES = [(64, 32), (33, 48), (129, 66), (960, 576), (7, 2)]
ROWS = [1, 2, 3, 5, 8, 12, 13, 24, 40, 97, 200]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_linear(native: Any, size: tuple[int, int], dtype: torch.dtype) -> None:
    weight, bias = normal(*size, seed=1, dtype=dtype) / size[1] ** 0.5, normal(size[0], seed=2, dtype=dtype)
    packed = native.pack(weight)
    assert torch.equal(packed.unpack(), weight)
    x, residual = normal(ROWS[-1], size[1], seed=3, dtype=dtype), normal(ROWS[-1], size[0], seed=4, dtype=dtype)
    whole = native.replay(packed_linear, x, packed, bias, residual=residual)
    exact = x.double() @ weight.double().T + bias.double() + residual.double()
    torch.testing.assert_close(whole.double(), exact, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)
    for count in ROWS:
        some = native.replay(packed_linear, x[:count], packed, bias, residual=residual[:count])
        assert torch.equal(some, whole[:count]), count
    last = native.replay(packed_linear, x[-3:], packed, bias, residual=residual[-3:], capacity=50)
    assert torch.equal(last, whole[-3:])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parts_are_packed_where_they_belong(native: Any, dtype: torch.dtype) -> None:
    from quire.kernels.cpu.packing import Packer

    weight = normal(77, 16, dtype=dtype)
    packer = Packer(native.library, native.pool)
    packed = packer.empty(77, 16, dtype)
    for first, last in ((0, 5), (5, 70), (70, 77)):
        packer.fill(packed, first, weight[first:last])
    assert torch.equal(packed.data, native.pack(weight).data)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_scores(native: Any, dtype: torch.dtype, softcap: float | None) -> None:
    table = native.pack(normal(517, 64, seed=1, dtype=dtype) / 8)
    x = normal(30, 64, seed=2, dtype=dtype)
    scores = native.replay(packed_logits, x, table, softcap)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, packed_logits.reference(x, table, softcap), rtol=1e-5, atol=1e-5)
    best = native.replay(packed_likeliest, x, table, softcap)
    assert best.dtype == torch.int32
    assert torch.equal(best, scores.argmax(1).int())


def test_the_likeliest_of_rows_that_are_equal_or_broken(native: Any) -> None:
    table = torch.zeros(130, 4)
    table[[3, 64, 129], 0] = 1.0  # the same greatest score three times
    table[70, 1] = 1.0
    rows = torch.tensor(
        [[1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 0], [float("nan"), 0, 0, 0], [float("inf"), 0, 0, 0], [1.0, 0, 0, 0]]
    )
    ids = native.replay(packed_likeliest, rows, native.pack(table), None)
    assert ids.tolist() == [3, 70, 0, -1, -1, 3]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 3.25])
def test_embedding(native: Any, dtype: torch.dtype, scale: float) -> None:
    table = native.pack(normal(75, 66, dtype=dtype))
    ids = torch.tensor([0, 74, 31, 32, 33, 63, 64, 5] * 9)
    found = native.replay(packed_embedding, ids, table, scale)
    assert torch.equal(found, packed_embedding.reference(ids, table, scale))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [16, 66, 576, 1003])
def test_norm(native: Any, size: int, dtype: torch.dtype) -> None:
    x, weight = normal(50, size, dtype=dtype) * 3, normal(size, seed=1)
    residual = normal(50, size, seed=2, dtype=dtype)
    for beside in (None, residual):
        found = native.replay(rms_norm, x, weight, 1e-5, residual=beside)
        torch.testing.assert_close(found, rms_norm.reference(x, weight, 1e-5, beside), **tolerance(dtype))
        alone = native.replay(rms_norm, x[7:8], weight, 1e-5, residual=None if beside is None else beside[7:8])
        assert torch.equal(alone, found[7:8])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("call", [silu_and_mul, gelu_tanh_and_mul], ids=lambda call: call.__name__)
@pytest.mark.parametrize("size", [2, 33, 96, 1536])
def test_gated(native: Any, call: Any, size: int, dtype: torch.dtype) -> None:
    x = normal(20, 2 * size, dtype=dtype) * 4
    x[0, :size] = torch.linspace(-120, 120, size)  # far into both tails
    found = native.replay(call, x)
    torch.testing.assert_close(found, call.reference(x), **tolerance(dtype))
    assert torch.equal(native.replay(call, x[9:10]), found[9:10])


def test_angles(native: Any) -> None:
    positions = torch.tensor([0, 1, 17, 4095, 131071, 1_000_000])
    inv_freq = 1.0 / 10000.0 ** (torch.arange(0, 64, 2) / 64)
    found = native.replay(angles, positions, inv_freq, 1.25)
    turned = (positions[:, None].float() * inv_freq).double()
    torch.testing.assert_close(found[0].double(), turned.cos() * 1.25, rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1].double(), turned.sin() * 1.25, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_take_rows(native: Any, dtype: torch.dtype) -> None:
    x = normal(9, 18, dtype=dtype)
    rows = torch.tensor([8, 0, 3, 3, 1, 2, 4, 7, 8])
    assert torch.equal(native.replay(take_rows, x, rows=rows), x[rows])


@pytest.mark.parametrize("num_threads", [2, 4])
def test_threads_that_come_late_neither_hang_nor_miss(num_threads: int) -> None:
    """Tens of thousands of runs that are over sooner than threads wake, some of them while one is just coming."""
    from quire.kernels.cpu.library import Pool, available
    from quire.kernels.cpu.program import Program, Recorded, Rows

    library = available()[0]
    pool = Pool(library, num_threads)
    program = Program(library, dict.fromkeys(Rows, 64))
    room, weight = torch.ones(64, 640), torch.ones(640)
    x: Tensor = program.wrap(room, Rows.TOKENS)
    for _ in range(4):
        x = rms_norm(x, weight, 0.0)
    result = x.as_subclass(Tensor)
    assert isinstance(x, Recorded)
    for run in range(20_000):
        count = run % 9 * 7 + 1
        if run % 100 == 0:
            room[:, 0] = run
            result.fill_(-1)
            program.run(pool, tokens=count)
            expected = rms_norm.reference(room[:1], weight, 0.0)
            assert torch.allclose(result[:count], expected.expand(count, -1), atol=1e-3)
        else:
            program.run(pool, tokens=count)
