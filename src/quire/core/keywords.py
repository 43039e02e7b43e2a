"""Other programs' keywords for ``LLM(...)``, so that a script changes one import. The words stand in core.aliases.

A keyword that means the same becomes our setting; one that cannot change an answer is dropped, with the reason; one
that asks for what does not exist is refused by name. None asks for nothing, nor does False for what is not there.
"""

import logging
from collections.abc import Mapping
from typing import Any

from quire.core import aliases
from quire.core.config import EngineConfig
from quire.core.errors import ConfigError

log = logging.getLogger("quire")


def engine_config(keywords: Mapping[str, Any]) -> EngineConfig:
    """The configuration these keywords ask for; what has no effect is said in the log. Raises ConfigError."""
    ours, notes = read_keywords(keywords, frozenset(EngineConfig.homes()))
    for note in notes:
        log.info("%s", note)
    return EngineConfig.of(**ours)


def read_keywords(keywords: Mapping[str, Any], known: frozenset[str]) -> tuple[dict[str, Any], list[str]]:
    """Keywords as our settings, and a line for each that has no effect here.

    ``known`` are our settings' own names. Names nobody knows are passed on, for whoever checks settings to refuse.
    """
    same, inverted = _by_flag(aliases.SAME), _by_flag(aliases.INVERTED)
    without_effect, missing = _by_flag(aliases.NO_EFFECT), _by_flag(aliases.NOT_YET)
    ours: dict[str, Any] = {}
    notes: list[str] = []
    for name, value in keywords.items():
        flag = "--" + name.replace("_", "-")
        if value is None and name not in known:
            continue
        if name in known or flag in same:
            setting = name if name in known else same[flag]
            ours[setting] = _value(setting, value)
        elif flag in inverted:
            ours[inverted[flag]] = not value
        elif flag in aliases.ONLY:
            if str(value) not in aliases.ONLY[flag].split():
                raise ConfigError(f"{name} is {value!r}: this version of Quire only knows {aliases.ONLY[flag]}.")
        elif flag in without_effect:
            notes.append(f"{name} has no effect: {without_effect[flag]}")
        elif flag in missing:
            if value is not False:
                raise ConfigError(f"{name} asks for {missing[flag]}: this version of Quire does not have that.")
        else:
            ours[name] = value
    return ours, notes


def _value(setting: str, value: Any) -> Any:
    """A value in our words; for the settings that may be auto, None. Raises ConfigError for what is not here."""
    if instead := aliases.INSTEAD.get(setting, {}).get(str(value)):
        raise ConfigError(f"{setting} is {value!r}: {instead}.")
    word = aliases.VALUES.get(setting, {}).get(str(value), value)
    return None if setting == "max_model_len" and word == "auto" else word


def _by_flag(table: Mapping[str, str]) -> dict[str, str]:
    """Flag, without the mark of its value, -> the row it stands in."""
    return {flag.rstrip("*").rstrip("="): row for row, flags in table.items() for flag in flags.split()}
