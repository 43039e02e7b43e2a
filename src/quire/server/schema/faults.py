"""What is said of a value that was checked by hand: its path, what it is, what it must be."""

from typing import TypeVar

from quire.core.errors import InvalidRequest

T = TypeVar("T")

_SHOWN_CHARS = 80


def bad(path: str, value: object, why: str) -> InvalidRequest:
    """To be raised; ``why`` follows the word "it"."""
    shown = repr(value)
    more = "..." if len(shown) > _SHOWN_CHARS else ""
    return InvalidRequest(f"{path} is {shown[:_SHOWN_CHARS]}{more}: it {why}.", param=path)


def expect(value: object, wanted: type[T], path: str, why: str) -> T:
    """The value, if it is of that type."""
    if not isinstance(value, wanted):
        raise bad(path, value, why)
    return value
