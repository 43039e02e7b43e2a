"""A JSON object read field by field: each by its name and kind, and none of them left over.

Null counts as absent, and ``type`` as read.
"""

from collections.abc import Mapping
from typing import Any

from quire.core.errors import InvalidRequest, Unsupported

MAX_PARTS = 1024
"""Of a list."""

_JSON_NAMES: Mapping[type[Any], str] = {
    str: "a string",
    list: "a list",
    dict: "an object",
    bool: "true or false",
    int: "an integer",
}


class Fields:
    """One object; raises InvalidRequest for what is none."""

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise InvalidRequest(f"{path} is {value!r:.80}: it must be an object.", param=path)
        self.path = path
        self._values = {name: inner for name, inner in value.items() if inner is not None}
        self._read = {"type"}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def of(self, name: str, kind: type[Any] | tuple[type[Any], ...], default: Any = ...) -> Any:
        """The field's value, or ``default``. Raises InvalidRequest for another kind, and where it is required."""
        self._read.add(name)
        value = self._values.get(name, default)
        where = f"{self.path}.{name}"
        if value is ...:
            raise InvalidRequest(f"{where} is missing: it is required.", param=where)
        if name in self._values and (not isinstance(value, kind) or (isinstance(value, bool) and kind is int)):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            wanted = " or ".join(_JSON_NAMES[one] for one in kinds)
            raise InvalidRequest(f"{where} is {value!r:.80}: it must be {wanted}.", param=where)
        return value

    def texts(self, name: str, default: Any = ...) -> list[str]:
        """A list of strings, none of them empty."""
        texts: list[str] = self.of(name, list, default)
        for i, text in enumerate(texts):
            if not isinstance(text, str) or not text:
                where = f"{self.path}.{name}[{i}]"
                raise InvalidRequest(f"{where} is {text!r:.80}: it must be a string, and not empty.", param=where)
        return texts

    def listed(self, name: str) -> list[tuple[Any, str]]:
        """The members of a list, with their paths; it has at least one."""
        values = self.of(name, list)
        where = f"{self.path}.{name}"
        if not 1 <= len(values) <= MAX_PARTS:
            raise InvalidRequest(f"{where} has {len(values)} members: give 1 to {MAX_PARTS}.", param=where)
        return [(value, f"{where}[{i}]") for i, value in enumerate(values)]

    def check_type(self, wanted: str) -> None:
        """Raise InvalidRequest for another ``type`` than this, which may be left out."""
        if (kind := self._values.get("type", wanted)) != wanted:
            where = f"{self.path}.type"
            raise InvalidRequest(f'{where} is {kind!r:.80}: it must be "{wanted}".', param=where)

    def done(self) -> None:
        """Raise Unsupported for the first field that nobody read."""
        for name in self._values:
            if name in self._read:
                continue
            where = f"{self.path}.{name}"
            raise Unsupported(f"{where} is not known here, and would change the answer: leave it out.", param=where)
