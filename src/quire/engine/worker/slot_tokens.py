"""Running sequences' tokens and block tables, by slot: here, or on a device that computes beside this process.

On such a device a token that was just chosen is written where the next step reads it, and this process learns of it
later; block tables are here too, for steps that are planned here. The last slot there, ``nowhere``, is nobody's: rows
that fill up a recorded step are its, and its block table names the storage's spare block.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

Ids = np.ndarray | Tensor
_NOTHING_DUE = np.empty(0, np.int64), np.empty(0, np.int32)


class Places(NamedTuple):
    """Where tokens are to be written: arrays, or tensors on the device; [R] each."""

    slots: Ids
    positions: Ids


class SlotTokens(Protocol):
    """Tokens of all slots."""

    def admit(self, slot: int, tokens: np.ndarray) -> None:
        """Fill a slot with ``tokens`` [L] int32."""
        ...

    def at(self, slots: np.ndarray, positions: np.ndarray) -> Ids:
        """[T] int32: the tokens at ``positions`` [T] of ``slots`` [T]."""
        ...

    def locate(self, slots: np.ndarray, positions: np.ndarray) -> Places:
        """The places ``positions`` [R] of ``slots`` [R]; those past the end of a slot too."""
        ...

    def put(self, places: Places, ids: Ids) -> None:
        """Write ``ids`` [R] int32; what is past the end of a slot is passed over."""
        ...

    def set_blocks(self, slots: np.ndarray, indexes: np.ndarray, blocks: np.ndarray) -> None:
        """Change block tables: ``blocks`` [n] at ``indexes`` [n] of those of ``slots`` [n]."""
        ...

    def tables(self, slots: np.ndarray, num_blocks: int) -> np.ndarray:
        """[S, num_blocks] int32: the beginnings of the block tables of ``slots`` [S]."""
        ...


class HostTokens:
    """As arrays, at addresses that stay."""

    def __init__(self, num_slots: int, max_model_len: int, max_blocks: int) -> None:
        self.tokens = np.zeros((num_slots, max_model_len), np.int32)
        self.block_tables = np.zeros((num_slots, max_blocks), np.int32)

    def admit(self, slot: int, tokens: np.ndarray) -> None:
        """See SlotTokens.admit."""
        self.tokens[slot, : len(tokens)] = tokens

    def at(self, slots: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """See SlotTokens.at."""
        found: np.ndarray = self.tokens[slots, positions]
        return found

    def locate(self, slots: np.ndarray, positions: np.ndarray) -> Places:
        """See SlotTokens.locate."""
        return Places(slots, positions)

    def put(self, places: Places, ids: Ids) -> None:
        """See SlotTokens.put."""
        slots, positions = places
        assert isinstance(slots, np.ndarray) and isinstance(positions, np.ndarray) and isinstance(ids, np.ndarray)
        fits = positions < self.tokens.shape[1]
        self.tokens[slots[fits], positions[fits]] = ids[fits]

    def set_blocks(self, slots: np.ndarray, indexes: np.ndarray, blocks: np.ndarray) -> None:
        """See SlotTokens.set_blocks."""
        self.block_tables[slots, indexes] = blocks

    def tables(self, slots: np.ndarray, num_blocks: int) -> np.ndarray:
        """See SlotTokens.tables."""
        return self.block_tables[slots, :num_blocks]


class DeviceTokens:
    """As tensors on a device; no method waits for it.

    Changes of block tables are due until they are settled, or taken by a step that makes them itself. Those of one step
    at most: two may change the same place, in an order that has to be kept.
    """

    def __init__(
        self, num_slots: int, max_model_len: int, max_blocks: int, spare_block: int, device: torch.device
    ) -> None:
        """``spare_block``: one that no sequence will be given."""
        self.nowhere = num_slots
        self.device = device
        # One more place than a sequence can have: what is chosen for a full one goes there.
        self.tokens = torch.zeros((num_slots + 1, max_model_len + 1), dtype=torch.int32, device=device)
        self.block_tables = torch.zeros((num_slots + 1, max_blocks), dtype=torch.int32, device=device)
        self.block_tables[self.nowhere] = spare_block
        self._tables_here = np.zeros((num_slots, max_blocks), np.int32)
        self.nothing_due = (self.nowhere * max_blocks, spare_block)
        """A change that changes nothing: place and block."""
        self._due = _NOTHING_DUE

    def admit(self, slot: int, tokens: np.ndarray) -> None:
        """See SlotTokens.admit."""
        self.tokens[slot, : len(tokens)] = to_device(tokens, self.device)

    def at(self, slots: np.ndarray, positions: np.ndarray) -> Tensor:
        """See SlotTokens.at. A token of -1, of a sequence that has failed meanwhile, reads as 0."""
        return self.read(*to_device(np.stack((slots, positions)).astype(np.int64), self.device))

    def read(self, slots: Tensor, positions: Tensor) -> Tensor:
        """The same, from tensors [T] int64."""
        return self.tokens[slots, positions].clamp_min_(0)

    def locate(self, slots: np.ndarray, positions: np.ndarray) -> Places:
        """See SlotTokens.locate."""
        end = self.tokens.shape[1] - 1
        there = to_device(np.stack((slots, np.minimum(positions, end))).astype(np.int64), self.device)
        return Places(there[0], there[1])

    def put(self, places: Places, ids: Ids) -> None:
        """See SlotTokens.put."""
        slots, positions = places
        assert isinstance(slots, Tensor) and isinstance(positions, Tensor)
        self.tokens.index_put_((slots, positions), to_device(ids, self.device) if isinstance(ids, np.ndarray) else ids)

    def set_blocks(self, slots: np.ndarray, indexes: np.ndarray, blocks: np.ndarray) -> None:
        """See SlotTokens.set_blocks."""
        self.settle()
        self._tables_here[slots, indexes] = blocks
        self._due = slots * self._tables_here.shape[1] + indexes, blocks

    def tables(self, slots: np.ndarray, num_blocks: int) -> np.ndarray:
        """See SlotTokens.tables."""
        return self._tables_here[slots, :num_blocks]

    @property
    def num_due(self) -> int:
        return self._due[0].size

    def take_due(self) -> tuple[np.ndarray, np.ndarray]:
        """What is due, to be made by the caller: places [n] in all tables, and blocks [n]."""
        due, self._due = self._due, _NOTHING_DUE
        return due

    def settle(self) -> None:
        """Make the changes that are due."""
        if self.num_due:
            self.change(*to_device(np.array(self.take_due(), np.int64), self.device))

    def change(self, places: Tensor, blocks: Tensor) -> None:
        """Make changes [n] int64 each, which may name a place twice if they name the same block."""
        self.block_tables.view(-1).index_copy_(0, places, blocks.int())


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy on the device; on its way when this returns, where the device computes beside this process."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cpu":
        return tensor.clone()
    return tensor.pin_memory().to(device, non_blocking=True)


def send(array: np.ndarray, there: Tensor) -> None:
    """Copy ``array`` to a tensor of its shape and dtype, contiguous both; on its way when this returns, as above."""
    tensor = torch.from_numpy(array)
    if there.device.type == "cpu":
        there.copy_(tensor)
    else:
        there.copy_(tensor.pin_memory(), non_blocking=True)
