"""Lays matrices in GGUF's block formats out for the native products."""

import torch
from torch import Tensor

from quire.kernels.cpu.packing import Packer
from quire.kernels.cpu.program import CannotRecord
from quire.kernels.ops.blocks import BLOCK_LAYOUTS, BlockMatrix, block_bytes


def empty_blocks(packer: Packer, num_out: int, num_in: int, block_type: str, dtype: torch.dtype) -> BlockMatrix:
    """Room for a matrix [num_out, num_in], for products in ``dtype``. Raises CannotRecord for odd sizes."""
    library = packer.library
    num_bytes = library.quire_packed_blocks_bytes(num_out, num_in, BLOCK_LAYOUTS[block_type].code)
    if num_bytes <= 0:
        raise CannotRecord(f"a weight [{num_out}, {num_in}] in blocks of {block_type} cannot be packed")
    data = torch.from_numpy(library.allocate(num_bytes))
    return BlockMatrix(data, num_out, num_in, block_type, dtype, library.tile_width)


def fill_blocks(packer: Packer, matrix: BlockMatrix, first: int, rows: Tensor) -> None:
    """Put ``rows``, [n, bytes] uint8 as a file holds them, in the places of rows first .. first + n."""
    assert rows.dtype == torch.uint8 and rows.shape[1] == block_bytes(matrix.block_type, matrix.num_in)
    assert first >= 0 and first + len(rows) <= matrix.num_out and rows.stride(1) == 1
    code = packer.library.quire_pack_blocks(
        packer.pool.address,
        rows.data_ptr(),
        rows.stride(0),
        first,
        len(rows),
        matrix.num_in,
        BLOCK_LAYOUTS[matrix.block_type].code,
        matrix.data.data_ptr(),
    )
    assert code == 0, f"quire_pack_blocks: {code}"
