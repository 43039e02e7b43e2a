"""What a user says in the place of a checkpoint's own configuration files."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from quire.core.config import ModelConfig


class Overrides(NamedTuple):
    """Fields of config.json and of generation_config.json."""

    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]

    @classmethod
    def of(cls, config: ModelConfig) -> "Overrides":
        return cls(config.hf_overrides, config.override_generation_config)


NO_OVERRIDES = Overrides({}, {})


def overridden(stated: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """``stated`` with these fields in the place of its own; of ``text_config``, a configuration inside, its fields."""
    if "rope_parameters" in fields:
        stated = {name: value for name, value in stated.items() if name != "rope_scaling"}  # its older name, which wins
    inside = fields.get("text_config")
    if isinstance(inside, dict) and isinstance(stated.get("text_config"), dict):
        return {**stated, **fields, "text_config": {**stated["text_config"], **inside}}
    return {**stated, **fields}
