"""The native bodies of the operators over weights in blocks; see ``bodies``."""

from collections.abc import Sequence

import torch
from torch import Tensor

from quire.kernels.cpu.bodies import best, recorded, stored
from quire.kernels.cpu.library import Output
from quire.kernels.cpu.program import DTYPES, CannotRecord, Recorded, stride
from quire.kernels.ops.blocks import (
    BLOCK_LAYOUTS,
    BlockMatrix,
    block_embedding,
    block_likeliest,
    block_linear,
    block_logits,
)
from quire.kernels.ops.packed import PackedMatrix


@block_linear.on("program")
def _block_linear(
    x: Tensor,
    matrices: Sequence[BlockMatrix | PackedMatrix],
    bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    x = recorded(x)
    y = x.program.empty(x.rows, (sum(matrix.num_out for matrix in matrices),), x.dtype)
    workspace = _workspace(x)
    first = 0
    for matrix in matrices:
        # Each product writes its own columns, and reads those of bias and residual.
        columns = slice(first, first + matrix.num_out)
        output = stored(
            x.program,
            recorded(y[:, columns]),
            None if bias is None else bias[columns],
            None if residual is None else residual[:, columns],
            None,
        )
        _append(x, matrix, workspace, output)
        first += matrix.num_out
    return y


@block_logits.on("program")
def _block_logits(x: Tensor, table: BlockMatrix, softcap: float | None) -> Tensor:
    x = recorded(x)
    y = x.program.empty(x.rows, (table.num_out,), torch.float32)
    _append(x, table, _workspace(x), stored(x.program, y, None, None, softcap))
    return y


@block_likeliest.on("program")
def _block_likeliest(x: Tensor, table: BlockMatrix, softcap: float | None) -> Tensor:
    x = recorded(x)
    ids = x.program.empty(x.rows, (), torch.int32)
    _append(x, table, _workspace(x), best(x.program, ids, table.num_out, softcap))
    return ids


@block_embedding.on("program")
def _block_embedding(ids: Tensor, table: BlockMatrix, scale: float) -> Tensor:
    ids = recorded(ids)
    y = ids.program.empty(ids.rows, (table.num_in,), table.dtype)
    ids.program.keep(table.data)
    ids.program.append(
        "quire_embed_blocks", ids.rows, ids, table.data, table.num_out, table.num_in,
        BLOCK_LAYOUTS[table.block_type].code, DTYPES[table.dtype], scale, y, stride(y),
    )  # fmt: skip
    return y


def _workspace(x: Recorded) -> Recorded:
    """For rows of x, rounded. Operators run one after another, so it is free for the next at once."""
    num_bytes = x.program.library.quire_blocks_workspace_bytes(1, x.shape[1])
    if num_bytes <= 0:
        raise CannotRecord(f"rows of {x.shape[1]} numbers do not come in groups of 32")
    return x.program.empty(x.rows, (num_bytes,), torch.uint8)


def _append(x: Recorded, matrix: BlockMatrix | PackedMatrix, workspace: Recorded, output: Output) -> None:
    if matrix.dtype != x.dtype or matrix.tile_width != x.program.library.tile_width:
        raise CannotRecord(f"a weight for {matrix.dtype}, packed by {matrix.tile_width}, for activations of {x.dtype}")
    x.program.keep(matrix.data)
    sizes = matrix.num_out, matrix.num_in
    if isinstance(matrix, PackedMatrix):
        x.program.append("quire_linear", x.rows, x, stride(x), matrix.data, *sizes, DTYPES[x.dtype], output)
    else:
        code = BLOCK_LAYOUTS[matrix.block_type].code
        x.program.append(
            "quire_linear_blocks", x.rows, x, stride(x), matrix.data, *sizes, code, DTYPES[x.dtype],
            workspace, output,
        )  # fmt: skip
