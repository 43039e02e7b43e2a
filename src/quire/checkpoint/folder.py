"""A checkpoint in Hugging Face's layout: config.json, safetensors, tokenizer files.

Reads JSON with a bound on its size, and only files inside the folder, whatever an index names.
"""

import json
import os
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from quire.checkpoint.overrides import NO_OVERRIDES, Overrides, overridden
from quire.core.errors import CorruptCheckpoint, UnsupportedModel

INDEX = "model.safetensors.index.json"
MAX_JSON_BYTES = 64 * 2**20
MAX_TEMPLATE_BYTES = 4 * 2**20
_SHARD = re.compile(r"(.+)-(\d{5,6})-of-(\d{5,6})\.safetensors")
_QUANTIZER_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Where older quantizers left what belongs into config.json, and whose file that is."""
_LFS_POINTER = b"version https://git-lfs"


class FolderCheckpoint:
    """Reads a folder lazily; every part once. See ``checkpoint.Checkpoint`` for what the parts mean."""

    format: Literal["safetensors"] = "safetensors"
    gguf: None = None

    def __init__(self, path: Path, overrides: Overrides = NO_OVERRIDES) -> None:
        self.path = path
        self._overrides = overrides

    def file(self, name: str) -> Path | None:
        path = self.path / name
        return path if os.path.isfile(path) else None  # where a name is too long for the system, Path.is_file raises

    @cached_property
    def config(self) -> dict[str, Any]:
        if self.file("config.json") is None:
            raise CorruptCheckpoint(
                f"{self.path} has no config.json, so it is no complete model. Give a folder in Hugging Face's layout "
                "(config.json, *.safetensors, tokenizer.json) or a .gguf file."
            )
        config = self._json("config.json")
        if config.get("quantization_config") is None:
            for name, method in _QUANTIZER_FILES.items():
                if stated := self._json(name):
                    config = config | {"quantization_config": {"quant_method": method} | stated}
                    break
        return overridden(config, self._overrides.config)

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        return overridden(self._json("generation_config.json"), self._overrides.generation_config)

    @cached_property
    def eos_token_ids(self) -> tuple[int, ...]:
        text_config = self.config.get("text_config")
        configs = [self.generation_config, self.config, text_config if isinstance(text_config, dict) else {}]
        return merged_ids(str(self.path), (config.get("eos_token_id") for config in configs))

    @cached_property
    def chat_template(self) -> str | None:
        path = self.file("chat_template.jinja")
        if path is not None:
            return _read(path, MAX_TEMPLATE_BYTES)
        for name in ("chat_template.json", "tokenizer_config.json"):
            template = _default_template(self._json(name).get("chat_template"), f"{self.path / name}")
            if template is not None:
                return template
        return None

    @cached_property
    def weight_files(self) -> list[Path]:
        names = sorted(self._names_from_index() if self.file(INDEX) else self._names_from_folder())
        missing = [name for name in names if self.file(name) is None]
        if missing:
            raise CorruptCheckpoint(
                f"{self.path} is incomplete: {len(missing)} of {len(names)} weight files are missing "
                f"({', '.join(missing[:8])}). Fetch the model again."
            )
        for name in names:
            _refuse_pointer(self.path / name)
        return [self.path / name for name in names]

    def _names_from_index(self) -> set[str]:
        weight_map = self._json(INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CorruptCheckpoint(f"{self.path / INDEX} has no weight_map. Fetch the model again.")
        names = set(map(str, weight_map.values()))
        for name in names:
            if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
                raise CorruptCheckpoint(f"{self.path / INDEX} names {name!r}, which is no safetensors file beside it.")
        return names

    def _names_from_folder(self) -> set[str]:
        found = {path.name for path in self.path.glob("*.safetensors")}
        if "model.safetensors" in found:
            return {"model.safetensors"}
        found = {name for name in found if not name.startswith(("consolidated", "adapter_"))} or found
        if not found:
            raise self._no_weights()
        return found | {name for file in found for name in _siblings(file)}

    def _no_weights(self) -> UnsupportedModel | CorruptCheckpoint:
        pickles = sorted(path.name for end in ("bin", "pt", "pth") for path in self.path.glob(f"*.{end}"))
        if pickles:
            return UnsupportedModel(
                f"{self.path} has its weights in {pickles[0]} only, a format that can run code when it is read. "
                "Convert it to safetensors."
            )
        return CorruptCheckpoint(f"{self.path} holds no *.safetensors file. Fetch the model again.")

    def _json(self, name: str) -> dict[str, Any]:
        """The object in a JSON file; empty if there is no such file."""
        path = self.file(name)
        if path is None:
            return {}
        try:
            value = json.loads(_read(path, MAX_JSON_BYTES))
        except (ValueError, RecursionError) as error:
            raise CorruptCheckpoint(f"{path} is not valid JSON: {str(error)[:200]}. Fetch it again.") from None
        if not isinstance(value, dict):
            raise CorruptCheckpoint(f"{path} holds a JSON {type(value).__name__}, not an object.")
        return value


def merged_ids(where: str, values: Iterable[Any]) -> tuple[int, ...]:
    """Token ids out of numbers, lists of numbers and nothings; in order, each once."""
    ids: dict[int, None] = {}
    for value in values:
        for token in value if isinstance(value, list) else [value]:
            if token is None:
                continue
            if type(token) is not int or not 0 <= token < 2**31:
                raise CorruptCheckpoint(
                    f"{where}: eos_token_id is {value!r}; it must be a token id, or a list of them."
                )
            ids[token] = None
    return tuple(ids)


def _read(path: Path, limit: int) -> str:
    try:
        size = path.stat().st_size
        if size > limit:
            raise CorruptCheckpoint(f"{path} has {size} bytes; at most {limit} are read.")
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise CorruptCheckpoint(f"{path} is not UTF-8 text. Fetch it again.") from None
    except OSError as error:
        raise CorruptCheckpoint(f"{path} cannot be read: {error.strerror}.") from None
    return text


def _default_template(value: Any, where: str) -> str | None:
    """The template itself, or the one called default (else the only one) in a list of named templates."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict):
        named = value
    elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
        named = {item.get("name"): item.get("template") for item in value}
    else:
        raise CorruptCheckpoint(f"{where}: chat_template is a {type(value).__name__}, not a text or named texts.")
    template = named.get("default", next(iter(named.values())) if len(named) == 1 else None)
    if template is not None and not isinstance(template, str):
        raise CorruptCheckpoint(f"{where}: the default chat_template is a {type(template).__name__}, not a text.")
    return template


def _siblings(name: str) -> list[str]:
    """The shards that must lie beside a shard called name-00001-of-00003.safetensors."""
    match = _SHARD.fullmatch(name)
    if not match or int(match[3]) > 10_000:
        return []
    return [f"{match[1]}-{number:0{len(match[2])}}-of-{match[3]}.safetensors" for number in range(1, int(match[3]) + 1)]


def _refuse_pointer(path: Path) -> None:
    if path.stat().st_size < 1024 and path.read_bytes().startswith(_LFS_POINTER):
        raise CorruptCheckpoint(f"{path} is a Git LFS pointer, not the weights. Run `git lfs pull` in its folder.")
