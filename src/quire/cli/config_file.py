"""A YAML file of flags, in any dialect that the command line takes.

    max_model_len: 4k
    api-key: [one, two]
    kv_cache_config: {free_gpu_memory_fraction: 0.5}

A key is a flag without its dashes, nested keys are joined by a dot, ``true`` and ``false`` switch, ``null`` leaves the
default. The file is turned into words of a command line, so that one set of rules holds for both.
"""

from pathlib import Path
from typing import Any

import msgspec

from quire.core.errors import ConfigError


def read_config_file(path: str, kinds: dict[str, str]) -> list[str]:
    """The file's flags as words; ``kinds`` tells which flags there are. Raises ConfigError."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"is not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return []
    if not isinstance(content, dict):
        raise ConfigError(f"must hold keys and values, not a {type(content).__name__}.")
    return [word for key, value in content.items() for word in _words(str(key), value, kinds)]


def _words(key: str, value: Any, kinds: dict[str, str]) -> list[str]:
    name = key.replace("_", "-")
    flag = f"--{name}" if f"--{name}" in kinds or f"-{name}" not in kinds else f"-{name}"
    kind = kinds.get(flag)
    if value is None or (kind == "refused" and value in (False, 0, "", [], {})):
        return []
    if value is True or value is False:
        return [flag if value else "--no-" + name] if kind != "one" else [f"{flag}={str(value).lower()}"]
    if isinstance(value, dict) and kind is None:
        return [word for inner, item in value.items() for word in _words(f"{key}.{inner}", item, kinds)]
    if isinstance(value, dict) or (isinstance(value, list) and kind == "one"):
        return [f"{flag}={msgspec.json.encode(value).decode()}"]
    if isinstance(value, list):
        return [f"{flag}={item}" for item in value]
    return [f"{flag}={value}"]
