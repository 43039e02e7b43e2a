"""The config structs as a flat list of settings: what flags, YAML keys, help texts and the docs table are made from.

Law: a setting's name is unique over all structs, so a flag needs no prefix.
"""

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from quire.core.config import (
    CacheConfig,
    MachineConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    ServerConfig,
)

ENGINE_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "model": ModelConfig,
    "cache": CacheConfig,
    "scheduler": SchedulerConfig,
    "parallel": ParallelConfig,
    "machine": MachineConfig,
}
"""Field of EngineConfig -> its struct."""

SECTIONS: dict[str, type[msgspec.Struct]] = {**ENGINE_SECTIONS, "server": ServerConfig}

_DECIMAL = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One field of one config struct."""

    name: str
    section: str
    annotation: Any
    """As declared: with the limits that msgspec checks."""
    base: type
    """bool, int, float, str or dict (a JSON object): the type of the value, or of a list's items."""
    is_optional: bool
    is_list: bool
    choices: tuple[str, ...]
    default: Any
    description: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def help_text(self) -> str:
        """Description, and the default unless the description says it."""
        is_said = "default:" in self.description
        return self.description if is_said else f"{self.description} (default: {self.default_text})"

    @property
    def default_text(self) -> str:
        """How help and docs show the default."""
        if self.default is None:
            return "auto" if self.base in (int, float) else "none"
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        if isinstance(self.default, list):
            return " ".join(self.default) or "none"
        if isinstance(self.default, dict):
            return "{}"
        return str(self.default) or "none"

    def parse(self, text: str) -> Any:
        """One word of the command line as this setting's value; raises ValueError that says what was expected."""
        if self.is_optional and text == "auto":
            return None
        if self.base is int:
            return parse_int(text)
        if self.base is float:
            return float(text)
        if self.base is dict:
            return _parse_object(text)
        return text.lower() if text.lower() in self.choices else text

    def check(self, value: Any) -> Any:
        """The value, of the declared type and within the declared limits; raises ValueError."""
        try:
            return msgspec.convert(value, self.annotation)
        except msgspec.ValidationError as error:
            raise ValueError(str(error).split(" - at ")[0].replace("`", "").replace(" | null", "")) from None


def settings(sections: dict[str, type[msgspec.Struct]]) -> dict[str, Setting]:
    """Every setting of these structs, by name, in the order of declaration."""
    found: dict[str, Setting] = {}
    for section, struct in sections.items():
        for field in msgspec.structs.fields(struct):
            assert field.name not in found, f"two settings are called {field.name}"
            found[field.name] = _setting(section, field)
    return found


def parse_int(text: str) -> int:
    """``4096``, ``4k`` (4000), ``4K`` (4096), ``25.6k``: small letters count in thousands, capitals in 1024s."""
    suffix = text[-1:]
    if suffix in _DECIMAL:
        number = float(text[:-1]) * _DECIMAL[suffix]
    elif suffix in _BINARY:
        number = int(text[:-1]) * _BINARY[suffix]
    else:
        number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError("Expected a whole number of 64 bits")
    return round(number)


def _parse_object(text: str) -> dict[str, Any]:
    try:
        value: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        raise ValueError("Expected a JSON object") from None
    return value


def _setting(section: str, field: Any) -> Setting:
    assert get_origin(field.type) is Annotated, f"{section}.{field.name} has no description"
    inner, meta = get_args(field.type)
    is_optional = get_origin(inner) in (Union, types.UnionType)
    if is_optional:
        (inner,) = (part for part in get_args(inner) if part is not type(None))
        inner = get_args(inner)[0] if get_origin(inner) is Annotated else inner
    is_list = get_origin(inner) is list
    if is_list:
        (inner,) = get_args(inner)
        inner = get_args(inner)[0] if get_origin(inner) is Annotated else inner
    choices = get_args(inner) if get_origin(inner) is Literal else ()
    inner = dict if get_origin(inner) is dict else inner
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return Setting(
        name=field.name,
        section=section,
        annotation=field.type,
        base=str if choices else inner,
        is_optional=is_optional,
        is_list=is_list,
        choices=choices,
        default=default,
        description=meta.description,
    )
