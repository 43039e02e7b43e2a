"""Try other tiles for products than those of ``product_tiles``, on a CUDA device, and say which are the fastest.

    PYTHONPATH=src:. python3 -m benchmarks.gpu.tiles [--kinds plain,blocks] [--out FILE]

Weights are random, and timed as operators are (``timing``). Prints, for each kind, shape and number of rows, the tile
in use and the best three. Slices and depth are part of a sum's order and follow from K; they are tried too, for all K.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from benchmarks.gpu.timing import measure, num_copies
from torch import Tensor

from quire.kernels.ops.fp8 import BLOCK, FP8, quantize_fp8
from quire.kernels.triton.matmul import multiply
from quire.kernels.triton.product_tiles import THIN_ROWS, ThinTile, WideTile, thin_tile, wide_tile

SHAPES = {
    "Llama-8B qkv": (6144, 4096),
    "Llama-8B o": (4096, 4096),
    "Llama-8B gate, up": (28672, 4096),
    "Llama-8B down": (4096, 14336),
}
ROWS = {"plain": (1, 8, 16), "blocks": (1, 8, 32, 64, 256, 4096), "rows": (1, 8, 32, 64, 256, 4096)}
MOST_SHARED_BYTES = 227 * 1024
Tile = ThinTile | WideTile


def candidates(now: Tile, itemsize: int, kind: str) -> Iterator[Tile]:
    """The tile in use, and others around it that fit."""
    yield now
    if isinstance(now, ThinTile):
        depths = (128,) if kind == "blocks" else (64, 128)
        for outputs, slices, depth, stages in itertools.product((16, 32), (2, 4, 8), depths, (3, 4, 5, 7)):
            shared = (now.rows * 2 + outputs * itemsize) * slices * depth * (stages - 1)
            if shared <= MOST_SHARED_BYTES:
                yield ThinTile(now.rows, outputs, slices, depth, slices, stages)
        return
    for rows, outputs, warps, stages in itertools.product((64, 128), (32, 64, 128, 256), (4, 8), (3, 4, 5, 6)):
        is_fit = (rows + outputs) * now.depth * itemsize * stages <= MOST_SHARED_BYTES
        if is_fit and rows * outputs <= 128 * 128 * (warps // 4):
            yield WideTile(rows, outputs, now.depth, now.group, warps, stages)


def problems(
    kind: str, num_rows: int, num_out: int, num_in: int, device: torch.device
) -> list[Callable[[Tile], Tensor]]:
    """The same product, each with another copy of the weight."""
    dtype = torch.bfloat16 if kind == "plain" else FP8
    copies = num_copies(num_out * num_in * dtype.itemsize)
    weights = [torch.randn(num_out, num_in, device=device).to(dtype) for _ in range(copies)]
    x = torch.randn(num_rows, num_in, device=device).bfloat16()
    if kind == "plain":
        return [lambda tile, w=w: multiply(x, w, kind, x.dtype, tile=tile) for w in weights]
    blocks = (-(-num_out // BLOCK), -(-num_in // BLOCK))
    scale = torch.rand(blocks if kind == "blocks" else (num_out,), device=device) + 0.5
    is_on_the_way = kind == "blocks" and num_rows <= 8
    rounded, x_scale = (x, None) if is_on_the_way else quantize_fp8(x, BLOCK if kind == "blocks" else None)
    return [lambda tile, w=w: multiply(rounded, w, kind, torch.bfloat16, x_scale, scale, tile=tile) for w in weights]


def sweep(kind: str, num_rows: int, num_out: int, num_in: int, device: torch.device) -> list[tuple[float, Tile]]:
    """Seconds and tiles, the one in use first and then the others, the fastest first."""
    size = 2 if kind == "plain" else 1
    is_thin = num_rows <= THIN_ROWS
    now = thin_tile(num_rows, num_out, num_in, size) if is_thin else wide_tile(num_rows, num_out, size)
    calls, found = problems(kind, num_rows, num_out, num_in, device), []
    for tile in candidates(now, size, kind):
        try:
            found.append((measure([partial(call, tile) for call in calls], device).seconds, tile))
        except Exception as error:  # a tile that does not fit is no reason to stop
            print(f"  {tile}: {type(error).__name__}: {str(error)[:100]}")
    return [found[0], *sorted(found[1:], key=lambda one: one[0])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default="plain,blocks")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results, device = [], torch.device("cuda")
    for kind in args.kinds.split(","):
        for (name, (num_out, num_in)), num_rows in itertools.product(SHAPES.items(), ROWS[kind]):
            print(f"{kind}, {name}, {num_rows} rows")
            num_bytes, num_flops = num_out * num_in * (2 if kind == "plain" else 1), 2 * num_rows * num_out * num_in
            for place, (took, tile) in enumerate(sweep(kind, num_rows, num_out, num_in, device)[:4]):
                rates = f"{num_bytes / took / 1e12:.2f} TB/s, {num_flops / took / 1e12:.0f} TFLOP/s"
                print(f"  {place or 'in use'}: {took * 1e6:.1f} us, {rates}, {tile}", flush=True)
                entry = dict(kind=kind, num_out=num_out, num_in=num_in, num_rows=num_rows, place=place)
                results.append(entry | dict(seconds=took, tile=tile._asdict()))
    if args.out is not None:
        args.out.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
