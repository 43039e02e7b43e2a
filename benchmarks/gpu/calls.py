"""What an operator is called with when it is checked, and how its answer is compared.

A case makes its tensors anew, from a seed of its own name, on whatever device is asked. ``Size`` says whether they have
the shapes of real models or small ones, for a trial without a device.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, NamedTuple
from zlib import crc32

import torch
from torch import Tensor

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


class Sizes(NamedTuple):
    """Of one model's shapes."""

    name: str
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    num_experts: int = 0
    top_k: int = 0


REAL = {
    "llama": Sizes("Llama-3.1-8B", 4096, 14336, 32, 8, 128, 128256),
    "qwen": Sizes("Qwen3-30B-A3B", 2048, 768, 32, 4, 128, 151936, 128, 8),
    "gemma": Sizes("Gemma-3-4B", 2560, 10240, 8, 4, 256, 262144),
    "small": Sizes("SmolLM2-135M", 576, 1536, 9, 3, 64, 49152),
}
TINY = {
    "llama": Sizes("tiny Llama", 128, 256, 4, 1, 32, 520),
    "qwen": Sizes("tiny Qwen", 128, 128, 4, 2, 32, 640, 8, 2),
    "gemma": Sizes("tiny Gemma", 64, 128, 4, 2, 64, 700),
    "small": Sizes("tiny SmolLM2", 96, 192, 3, 1, 32, 300),
}


class Maker:
    """Makes the tensors of one case."""

    def __init__(self, name: str, device: torch.device, *, is_tiny: bool) -> None:
        self.device = device
        self.is_tiny = is_tiny
        self.models = TINY if is_tiny else REAL
        self._random = torch.Generator(device).manual_seed(crc32(name.encode()))

    def size(self, real: int, tiny: int) -> int:
        return tiny if self.is_tiny else real

    def normal(self, *shape: int, std: float = 1.0, dtype: torch.dtype = BF16) -> Tensor:
        drawn = torch.empty(shape, dtype=F32, device=self.device).normal_(std=std, generator=self._random)
        return drawn.to(dtype)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.empty(shape, dtype=F32, device=self.device).uniform_(low, high, generator=self._random)

    def integers(self, low: int, high: int, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        """From ``low`` up to and without ``high``."""
        return torch.randint(low, high, shape, dtype=dtype, device=self.device, generator=self._random)

    def permutation(self, count: int) -> Tensor:
        return torch.randperm(count, device=self.device, generator=self._random)

    def weight(self, num_out: int, num_in: int, dtype: torch.dtype = BF16) -> Tensor:
        """Of a size that keeps what is multiplied of its size."""
        return self.normal(num_out, num_in, std=num_in**-0.5, dtype=dtype)


@dataclass
class Call:
    """Arguments of one call, and what to expect of its answer."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    written: tuple[int, ...] = ()
    """Places of arguments that are written in place: they are part of the answer."""
    read: Callable[[Any], list[Tensor]] | None = None
    """From what is returned to what must be right; None: all tensors in it."""
    tolerance: float | None = None
    """Of the error's norm against the answer's; None: as the dtype allows; 0: the same bits."""
    alone: Sequence[tuple["Call", Any]] = ()
    """Calls with a part of the rows, and which rows of the answer they must give to the bit."""

    def fresh(self) -> "Call":
        """With copies of what is written in place."""
        args = tuple(arg.clone() if place in self.written else arg for place, arg in enumerate(self.args))
        return replace(self, args=args)

    def answer(self, function: Callable[..., Any]) -> list[Tensor]:
        """Call and read."""
        returned = function(*self.args, **self.kwargs)
        tensors = list(tensors_in(returned)) if self.read is None else self.read(returned)
        return tensors + [self.args[place] for place in self.written]


class Case(NamedTuple):
    """One way to call one operator."""

    op: str
    name: str
    make: Callable[[Maker], Call]


def some_rows(call: Call, places: Sequence[int], rows: Sequence[int] | Tensor) -> tuple[Call, Tensor]:
    """The same call of some rows: ``places`` are the arguments that have a row for each of the answer's."""
    device = next(tensors_in(call.args)).device
    index = torch.as_tensor(rows, device=device)
    args = tuple(
        arg[index].contiguous() if place in places and isinstance(arg, Tensor) else arg
        for place, arg in enumerate(call.args)
    )
    return Call(args, call.kwargs, read=call.read), index


def half_of(num_rows: int, least: int) -> list[int]:
    """The later half of the rows, the last one first; all of them if the half is less than ``least``."""
    first = num_rows // 2 if num_rows - num_rows // 2 >= least else 0
    return list(range(num_rows - 1, first - 1, -1))


def widen(value: Any) -> Any:
    """With all 16-bit floats in it as float32."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (BF16, F16) else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(widen, value))
    if isinstance(value, tuple):
        return tuple(map(widen, value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: widen(getattr(value, one.name)) for one in fields(value)})
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in tuples and lists, however deep."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from tensors_in(one)
