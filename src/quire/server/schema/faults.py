"""What is said of a value that was checked by hand: its path, what it is, what it must be."""

from typing import TypeVar

from quire.core.errors import InvalidRequest

T = TypeVar("T")

_SHOWN_CHARS = 80
_NAMES = ((None, "null"), (True, "true"), (False, "false"))


def bad(path: str, value: object, why: str) -> InvalidRequest:
    """To be raised; ``why`` follows the word "it"."""
    return InvalidRequest(f"{path} is {shown(value)}: it {why}.", param=path)


def shown(value: object) -> str:
    """The value, shortened; what has other names in JSON by those."""
    text = next((name for known, name in _NAMES if value is known), None) or repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."


def expect(value: object, wanted: type[T], path: str, why: str) -> T:
    """The value, if it is of that type."""
    if not isinstance(value, wanted):
        raise bad(path, value, why)
    return value
