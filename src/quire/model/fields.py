"""Reads a model's config dict field by field, so that what is missing or of the wrong type is named.

The dict is a Hugging Face ``config.json`` (or what a GGUF's metadata was turned into): made by strangers, so nothing in
it is trusted to be there or to be what it should.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard, overload

from quire.core.errors import CorruptCheckpoint

_REQUIRED: Any = object()


class Fields:
    """A view of a config, or of a dict inside it; raises CorruptCheckpoint, naming the key.

    Null counts as missing. A missing field is its default, or an error where no default is given.
    """

    def __init__(self, values: Mapping[str, Any], path: str = "config.json $") -> None:
        self.values = values
        self._path = path

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    @overload
    def integer(self, key: str, default: int = ..., *, least: int = 1, most: int = ...) -> int: ...
    @overload
    def integer(self, key: str, default: None, *, least: int = 1, most: int = ...) -> int | None: ...
    def integer(
        self, key: str, default: int | None = _REQUIRED, *, least: int = 1, most: int = 2**31 - 1
    ) -> int | None:
        """An integer from ``least`` to ``most``."""

        def is_good(value: object) -> bool:
            return _is_integer(value) and least <= value <= most

        number: int | None = self._checked(key, default, is_good, f"an integer from {least} to {most}")
        return number

    @overload
    def number(self, key: str, default: float = ...) -> float: ...
    @overload
    def number(self, key: str, default: None) -> float | None: ...
    def number(self, key: str, default: float | None = _REQUIRED) -> float | None:
        """A positive finite number."""
        value = self._checked(key, default, _is_positive, "a positive number")
        return value if value is None else float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        return bool(self._checked(key, default, lambda value: isinstance(value, bool), "true or false"))

    @overload
    def text(self, key: str, default: str = ...) -> str: ...
    @overload
    def text(self, key: str, default: None) -> str | None: ...
    def text(self, key: str, default: str | None = _REQUIRED) -> str | None:
        """A string."""
        value: str | None = self._checked(key, default, lambda value: isinstance(value, str), "a string")
        return value

    def texts(self, key: str, length: int) -> list[str] | None:
        """A list of ``length`` strings or more, cut to that; None if missing."""

        def is_good(value: object) -> bool:
            return isinstance(value, list) and len(value) >= length and all(isinstance(item, str) for item in value)

        value: list[str] | None = self._checked(key, None, is_good, f"a list of {length} strings")
        return value if value is None else value[:length]

    def names(self, key: str) -> list[str]:
        """A list of strings; empty if missing."""

        def is_good(value: object) -> bool:
            return isinstance(value, list) and all(isinstance(item, str) for item in value)

        value: list[str] | None = self._checked(key, None, is_good, "a list of strings")
        return value or []

    def integers(self, key: str) -> list[int]:
        """A list of integers from 0 on; empty if missing."""

        def is_good(value: object) -> bool:
            return isinstance(value, list) and all(_is_integer(item) and item >= 0 for item in value)

        value: list[int] | None = self._checked(key, None, is_good, "a list of integers from 0 on")
        return value or []

    def inner(self, key: str) -> "Fields | None":
        """The dict under ``key``; None if missing."""
        value = self._checked(key, None, lambda value: isinstance(value, Mapping), "an object")
        return value if value is None else Fields(value, f"{self._path}.{key}")

    def over(self, defaults: Mapping[str, Any]) -> "Fields":
        """These fields, with ``defaults`` for those that are missing."""
        stated = {key: value for key, value in self.values.items() if value is not None}
        return Fields({**defaults, **stated}, self._path)

    def wrong(self, key: str, expected: str) -> CorruptCheckpoint:
        """The error for a field that is not as expected."""
        return CorruptCheckpoint(
            f"{self._path}.{key} is {self.values.get(key)!r:.200}, but must be {expected}: the model's configuration "
            "is damaged, or not of the architecture it names."
        )

    def _checked(self, key: str, default: Any, is_good: Callable[[object], bool], expected: str) -> Any:
        value = self.values.get(key)
        if value is None and default is not _REQUIRED:
            return default
        if value is None or not is_good(value):
            raise self.wrong(key, expected)
        return value


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max
