"""A place in a checkpoint, from which a layer pulls exactly the numbers it will hold.

A layer is given a cursor, names its tensors as the checkpoint names them, gives their full shapes and says how they
are cut; the cursor reads only that part of the file. So name, shape and cut of a weight stand on one line, in
the layer; there is no second table to keep in step with it.

Law: a family that loads a checkpoint leaves ``unread()`` empty; nothing in a checkpoint is silently ignored.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from quire.model.quantization.method import Experts, Side, Table, Weight
from quire.model.weights.shard import Group, span
from quire.model.weights.source import LazyBlocks, Shape, TensorSource, Window, slabs


@dataclass(frozen=True)
class Cursor:
    """A path into a source, and how what is pulled there is to be held.

    ``dtype`` and ``device`` are what floating-point tensors become; ``method`` reads the linears below here. All
    cursors made from one share the record of what was read.
    """

    source: TensorSource
    dtype: torch.dtype
    device: torch.device
    method: "Method"
    group: Group = field(default_factory=Group)
    path: str = ""
    _read: set[str] = field(default_factory=set, repr=False)

    def __truediv__(self, name: str | int) -> "Cursor":
        """The cursor one step down: ``cursor / "layers" / 3``."""
        return replace(self, path=self._full(str(name)))

    def __contains__(self, name: str) -> bool:
        """Whether the checkpoint has this tensor. Made-up weights say no: what is optional is for config to say."""
        return self._full(name) in self.source.names()

    def share(self, name: str, shape: Shape, *, cut: int | None = None, units: int | None = None) -> Shape:
        """The shape of what ``pull`` would read. Asked before memory is taken for it, which then the file is full of.

        Raises as ``pull`` does for a tensor that is missing or of another shape.
        """
        self.source.tensor(self._full(name), shape)
        return tuple(part.stop - part.start for part in self._window(shape, cut, units))

    def pull(
        self,
        name: str,
        shape: Shape,
        *,
        cut: int | None = None,
        units: int | None = None,
        dtype: torch.dtype | None = None,
        out: Tensor | None = None,
        first: int = 0,
    ) -> Tensor:
        """Read tensor ``name``, of full ``shape``, whole or cut along dimension ``cut`` in ``units`` equal units.

        It comes in ``dtype``, by default the cursor's, or is read into ``out``, in its dtype: a tensor of the part's
        shape, or, to read piece by piece, of some of its rows from row ``first`` of the part on. Raises
        CorruptCheckpoint for a tensor that is missing, of another shape, unreadable or not finite, naming file and
        tensor; UnsupportedModel if it is not stored as numbers that become this dtype.
        """
        full = self._full(name)
        tensor = self.source.tensor(full, shape)
        self._read.add(full)
        window = self._window(shape, cut, units)
        if out is None:
            sizes = [part.stop - part.start for part in window]
            out = torch.empty(sizes, dtype=dtype or self.dtype, device=self.device)
        if out.dim():
            begin = window[0].start + first
            assert begin + len(out) <= window[0].stop
            window = (slice(begin, begin + len(out)), *window[1:])
        tensor.read(window, out)
        return out

    def block_type(self, name: str, shape: Shape, *, cut: int | None = None, units: int | None = None) -> str | None:
        """The block format that ``pull_blocks`` would find; None where ``pull`` must read plain numbers."""
        tensor = self.source.tensor(self._full(name), shape)
        return tensor.block_type(self._window(shape, cut, units)) if isinstance(tensor, LazyBlocks) else None

    def pull_blocks(
        self, name: str, shape: Shape, *, cut: int | None = None, units: int | None = None, out: Tensor, first: int
    ) -> None:
        """Read into ``out``, [rows, bytes] uint8, as many rows of what ``pull`` would read, from row ``first`` on.

        They come as blocks, those of ``block_type``. Raises CorruptCheckpoint, naming file and tensor.
        """
        full = self._full(name)
        tensor = self.source.tensor(full, shape)
        assert isinstance(tensor, LazyBlocks)
        self._read.add(full)
        rows, columns = self._window(shape, cut, units)
        tensor.read_blocks((slice(rows.start + first, rows.start + first + len(out)), columns), out)

    def peek(self, name: str, shape: Shape, dtype: torch.dtype) -> Tensor:
        """As ``pull``, whole and on the host, without counting as read."""
        return replace(self, device=torch.device("cpu"), _read=set()).pull(name, shape, dtype=dtype)

    def skip(self, name: str) -> None:
        """Declare that this tensor, if the checkpoint has it, is known and not needed (a tied head, a buffer)."""
        self._read.add(self._full(name))

    def unread(self) -> set[str]:
        """Full names of the tensors that nobody pulled or skipped."""
        return set(self.source.names()) - self._read

    def _full(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def _window(self, shape: Shape, cut: int | None, units: int | None) -> Window:
        whole = [slice(0, extent) for extent in shape]
        if cut is not None:
            whole[cut] = span(shape[cut], units or shape[cut], self.group)
        return tuple(whole)


@dataclass(frozen=True)
class Part:
    """One projection among those that a linear fuses: where it lies, its full sizes, and how it may be cut.

    ``units`` is the number of indivisible units its cut features come in (heads, for q, k and v); None: each alone.
    """

    at: Cursor
    out_features: int
    in_features: int
    units: int | None = None

    @property
    def shape(self) -> Shape:
        """Of its whole weight."""
        return self.out_features, self.in_features

    def share(self, side: Side) -> Shape:
        """Of this rank's share of its weight."""
        return self.at.share("weight", self.shape, cut=side.cut, units=self.units)


@dataclass(frozen=True)
class Stack:
    """The experts of one layer: where they lie (``at / index / projection``), and their full sizes."""

    at: Cursor
    num_experts: int
    hidden_size: int
    intermediate_size: int

    def wide(self, index: int) -> list[Part]:
        """One expert's gate and up, which share their input; cut by ``Side.OUT``."""
        return [
            Part(self.at / index / name, self.intermediate_size, self.hidden_size) for name in ("gate_proj", "up_proj")
        ]

    def down(self, index: int) -> Part:
        """The way back; cut by ``Side.IN``."""
        return Part(self.at / index / "down_proj", self.hidden_size, self.intermediate_size)


class Method(Protocol):
    """A way linears are stored in a checkpoint."""

    def load(self, parts: Sequence[Part], side: Side) -> Weight:
        """Read the parts of one linear, which share their input, fused in their order along the output.

        With ``Side.IN`` there is one part. Raises CorruptCheckpoint.
        """
        ...

    def table(self, part: Part) -> Table:
        """Read a matrix with one row a token, [V, E], of which every rank holds all. Raises CorruptCheckpoint."""
        ...

    def experts(self, stack: Stack) -> Experts:
        """Read a layer's experts. Raises CorruptCheckpoint; UnsupportedModel where they cannot be held this way."""
        ...


def fused_shape(parts: Sequence[Part], side: Side) -> tuple[int, int]:
    """[out, in] of this rank's share of all parts, one below the other."""
    shares = [part.share(side) for part in parts]
    return sum(share[0] for share in shares), shares[0][1]


def fused_slabs(parts: Sequence[Part], side: Side) -> Iterator[tuple[Part, slice, int]]:
    """The pieces to read fused parts in: a part, rows of its share, and which row of the whole is their first."""
    begin = 0
    for part in parts:
        share = part.share(side)
        for rows in slabs(share):
            yield part, rows, begin + rows.start
        begin += share[0]


def pull_fused(
    parts: Sequence[Part],
    name: str,
    shape_of: Callable[[Part], Shape],
    *,
    cut: int | None,
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Read tensor ``name`` of every part, one below the other (dimension 0), in ``dtype``, by default the cursor's.

    ``shape_of`` gives the tensor's full shape for a part. Nothing is held twice: each part is read into its place, of
    a new tensor or of ``out``.
    """
    first = parts[0].at
    shares = [part.at.share(name, shape_of(part), cut=cut, units=part.units) for part in parts]
    if out is None:
        rows = sum(share[0] for share in shares)
        out = torch.empty((rows, *shares[0][1:]), dtype=dtype or first.dtype, device=first.device)
    begin = 0
    for part, share in zip(parts, shares, strict=True):
        part.at.pull(name, shape_of(part), cut=cut, units=part.units, out=out[begin : begin + share[0]])
        begin += share[0]
    return out


def pull_stacked(
    groups: Sequence[Sequence[Part]],
    name: str,
    shape_of: Callable[[Part], Shape],
    *,
    cut: int | None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """As ``pull_fused`` for each group of parts of equal shapes, into one tensor [groups, ...]."""
    first = groups[0][0].at
    shares = [part.at.share(name, shape_of(part), cut=cut, units=part.units) for part in groups[0]]
    rows = sum(share[0] for share in shares)
    stacked = torch.empty((len(groups), rows, *shares[0][1:]), dtype=dtype or first.dtype, device=first.device)
    for parts, place in zip(groups, stacked, strict=True):
        pull_fused(parts, name, shape_of, cut=cut, out=place)
    return stacked
