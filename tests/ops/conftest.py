"""Native operators one at a time: record one, replay it, hand back what it wrote. Random numbers are always alike."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from quire.kernels.cpu import bodies, library
from quire.kernels.cpu.library import Library, Pool
from quire.kernels.cpu.packing import Packer
from quire.kernels.cpu.program import Program, Rows
from quire.kernels.ops.packed import PackedMatrix

assert bodies  # its import offers the native bodies


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """In every run, whichever tests ran before."""
    torch.manual_seed(0)


class Native:
    """The kernels of one level on a few threads."""

    def __init__(self, library: Library, num_threads: int) -> None:
        self.library = library
        self.pool = Pool(library, num_threads)

    def pack(self, weight: Tensor) -> PackedMatrix:
        packer = Packer(self.library, self.pool)
        packed = packer.empty(*weight.shape, weight.dtype)
        packer.fill(packed, 0, weight)
        return packed

    def replay(self, call: Callable[..., Any], x: Tensor, *args: Any, capacity: int | None = None, **more: Any) -> Any:
        """call(x, ...) with x, and what in ``more`` has its rows, recorded; then one replay for these rows."""
        program = Program(self.library, dict.fromkeys(Rows, capacity or max(1, len(x))))

        def roomy(tensor: Tensor) -> Tensor:
            room = torch.zeros((program.capacity[Rows.TOKENS], *tensor.shape[1:]), dtype=tensor.dtype)
            room[: len(tensor)] = tensor
            return program.wrap(room, Rows.TOKENS)

        more = {name: roomy(v) if isinstance(v, Tensor) and len(v) == len(x) else v for name, v in more.items()}
        result = call(roomy(x), *args, **more)
        program.run(self.pool, tokens=len(x), sequences=len(x), asked=len(x), sampled=len(x))
        results = result if isinstance(result, tuple) else (result,)
        plain = tuple(part.as_subclass(Tensor)[: len(x)].clone() for part in results)
        return plain if isinstance(result, tuple) else plain[0]


@pytest.fixture(params=library.LEVELS)
def level(request: pytest.FixtureRequest) -> Library:
    """The kernels of each level that this processor runs."""
    for opened in library.available():
        if opened.level == request.param:
            return opened
    pytest.skip(f"the kernels {request.param} are not here, or do not run on this processor")


@pytest.fixture(params=[1, 2, 3], ids=lambda count: f"{count} threads")
def native(level: Library, request: pytest.FixtureRequest) -> Native:
    return Native(level, request.param)
