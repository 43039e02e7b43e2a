"""Declares an operator once; lets a device type bring a faster body.

The decorated function *is* the reference: its signature is the interface, its docstring the contract, its body the
truth that every other body is tested against. A file under ``kernels/cpu`` or ``kernels/triton`` calls
``op.on("cpu")`` to offer a body; a device type without an offer runs the reference.

Law: every body of an op keeps the reference's signature and its docstring's contract, batch invariance included.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from functools import update_wrapper
from types import MappingProxyType, ModuleType
from typing import Generic, ParamSpec, TypeVar

from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


class Op(Generic[P, R]):
    """An operator: its reference, and the bodies that device types brought.

    Bodies are offered while modules are imported; afterwards an Op does not change.
    """

    __name__: str

    def __init__(self, reference: Callable[P, R]) -> None:
        self.reference = reference
        self._bodies: dict[str, Callable[P, R]] = {}
        update_wrapper(self, reference)

    @property
    def bodies(self) -> Mapping[str, Callable[P, R]]:
        """Device type -> body, the reference not among them."""
        return MappingProxyType(self._bodies)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the body for the first argument, which must be a tensor given by position.

        That is the body for its device type, or the one that its class names (a recorded tensor's).
        """
        first = args[0]
        assert isinstance(first, Tensor)
        kind = getattr(type(first), "body", None) or first.device.type
        return self._bodies.get(kind, self.reference)(*args, **kwargs)

    def on(self, device_type: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Decorate a body for tensors on ``device_type``, or "program" for recorded ones."""

        def offer(body: Callable[P, R]) -> Callable[P, R]:
            assert device_type not in self._bodies, f"{self.__name__} has a body for {device_type} already"
            self._bodies[device_type] = body
            return body

        return offer


def op(reference: Callable[P, R]) -> Op[P, R]:
    """Make ``reference`` an operator. Its first argument must be a tensor: it picks the device type."""
    return Op(reference)


def all_ops(package: ModuleType) -> dict[str, Op[..., object]]:
    """Every operator declared in the modules of ``package``, by name: what the parametrized tests go through."""
    found: dict[str, Op[..., object]] = {}
    for entry in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{entry.name}")
        found |= {value.__name__: value for value in vars(module).values() if isinstance(value, Op)}
    return found
