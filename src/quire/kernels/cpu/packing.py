"""Lays matrices out for the native products."""

import torch
from torch import Tensor

from quire.kernels.cpu.library import Library, Pool
from quire.kernels.cpu.program import DTYPES, CannotRecord
from quire.kernels.ops.packed import PackedMatrix


class Packer:
    """Packs while a model is loaded, on a pool's threads."""

    def __init__(self, library: Library, pool: Pool) -> None:
        self.library = library
        self.pool = pool

    def empty(self, num_out: int, num_in: int, dtype: torch.dtype) -> PackedMatrix:
        """Room for a matrix [num_out, num_in] of float32 or bfloat16. Raises CannotRecord for odd sizes."""
        num_bytes = self.library.quire_packed_bytes(num_out, num_in, DTYPES[dtype])
        if num_bytes <= 0:
            raise CannotRecord(f"a weight [{num_out}, {num_in}] of {dtype} cannot be packed")
        data = torch.from_numpy(self.library.allocate(num_bytes))
        return PackedMatrix(data, num_out, num_in, dtype, self.library.tile_width)

    def fill(self, matrix: PackedMatrix, first: int, rows: Tensor) -> None:
        """Put ``rows`` [n, num_in], of the matrix's dtype, in the places of rows first .. first + n."""
        assert rows.dtype == matrix.dtype and rows.shape[1] == matrix.num_in and rows.stride(1) == 1
        assert first >= 0 and first + len(rows) <= matrix.num_out
        code = self.library.quire_pack(
            self.pool.address,
            rows.data_ptr(),
            rows.stride(0),
            first,
            len(rows),
            matrix.num_in,
            DTYPES[matrix.dtype],
            matrix.data.data_ptr(),
        )
        assert code == 0, f"quire_pack: {code}"
