"""One view of a model's files, whether they are a Hugging Face folder or a single GGUF file.

Knows configuration, tokenizer files, chat template and where weights lie; reads no weights. Nothing in a checkpoint
is ever executed: ``auto_map`` entries are ignored, pickles are refused.
"""

from pathlib import Path
from typing import Any, Literal, Protocol

from quire.checkpoint.folder import FolderCheckpoint
from quire.checkpoint.gguf import GGUFFile
from quire.checkpoint.gguf_checkpoint import GGUFCheckpoint
from quire.checkpoint.overrides import NO_OVERRIDES, Overrides
from quire.core.errors import ModelUnavailable


class Checkpoint(Protocol):
    """A model on disk. Its parts are read when first asked for, and may raise CorruptCheckpoint then."""

    @property
    def path(self) -> Path:
        """The folder, or the .gguf file."""
        ...

    @property
    def format(self) -> Literal["safetensors", "gguf"]: ...

    @property
    def config(self) -> dict[str, Any]:
        """config.json, multimodal wrappers included; for GGUF the same written from its metadata.

        A quantization that older quantizers state in a file of their own is its ``quantization_config``.
        """
        ...

    @property
    def generation_config(self) -> dict[str, Any]:
        """generation_config.json, or what GGUF metadata has of it; empty if there is none."""
        ...

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """All ids that end a sequence, the generation config's first."""
        ...

    @property
    def weight_files(self) -> list[Path]:
        """All files that hold weights, complete. Raises CorruptCheckpoint naming the missing ones."""
        ...

    @property
    def gguf(self) -> GGUFFile | None:
        """The open file, for GGUF."""
        ...

    @property
    def chat_template(self) -> str | None:
        """Source of the default chat template."""
        ...

    def file(self, name: str) -> Path | None:
        """A file of the folder such as tokenizer.json, if there is one."""
        ...


def open_checkpoint(path: Path, overrides: Overrides = NO_OVERRIDES) -> Checkpoint:
    """Open a folder, a .gguf file, or a folder with a single .gguf file and no config.json.

    Raises ModelUnavailable if there is nothing to open, CorruptCheckpoint and UnsupportedModel.
    """
    if path.is_file():
        return GGUFCheckpoint(path, overrides)
    if not path.is_dir():
        raise ModelUnavailable(f"{path} does not exist. Give a folder with a config.json, or a .gguf file.")
    found = sorted(path.glob("*.gguf"))
    if not found or (path / "config.json").exists():
        return FolderCheckpoint(path, overrides)
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:8])
        raise ModelUnavailable(f"{path} holds {len(found)} GGUF files ({names}). Give the path of one of them.")
    return GGUFCheckpoint(found[0], overrides)
