"""A checkpoint that is one GGUF file: weights, configuration, tokenizer and chat template together."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from quire.checkpoint.folder import merged_ids
from quire.checkpoint.gguf import GGUFFile
from quire.checkpoint.gguf_config import hugging_face_config, hugging_face_generation_config
from quire.checkpoint.overrides import NO_OVERRIDES, Overrides, overridden
from quire.core.errors import CorruptCheckpoint, UnsupportedModel


class GGUFCheckpoint:
    """Opens the file at once and keeps it open. See ``checkpoint.Checkpoint`` for what the parts mean."""

    format: Literal["gguf"] = "gguf"

    def __init__(self, path: Path, overrides: Overrides = NO_OVERRIDES) -> None:
        self.path = path
        self._overrides = overrides
        self.gguf = GGUFFile(path)
        num_files = self.gguf.metadata.get("split.count", 0)
        if type(num_files) is not int or num_files > 1:
            raise UnsupportedModel(
                f"{path} is one of {num_files} files of a split GGUF. Join them first: "
                "llama-gguf-split --merge FIRST-FILE JOINED.gguf"
            )

    @cached_property
    def config(self) -> dict[str, Any]:
        return overridden(hugging_face_config(self.gguf), self._overrides.config)

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        return overridden(hugging_face_generation_config(self.gguf), self._overrides.generation_config)

    @cached_property
    def eos_token_ids(self) -> tuple[int, ...]:
        return merged_ids(str(self.path), [self.generation_config.get("eos_token_id")])

    @property
    def weight_files(self) -> list[Path]:
        return [self.path]

    @cached_property
    def chat_template(self) -> str | None:
        template = self.gguf.metadata.get("tokenizer.chat_template")
        if template is not None and not isinstance(template, str):
            raise CorruptCheckpoint(f"{self.path}: tokenizer.chat_template is no text.")
        return template

    def file(self, name: str) -> None:
        """Nothing: files beside a .gguf may belong to other models."""
        return None
