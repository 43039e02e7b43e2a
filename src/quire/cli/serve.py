"""``quire serve``: an engine in its own process, and the HTTP server in this one."""

import contextlib
from collections.abc import Sequence

from quire.cli.flags import read
from quire.core.signals import held, interrupting

_ABOUT = "Serve a model over HTTP. Without MODEL, a small one is fetched and served."


def main(argv: Sequence[str]) -> int:
    """Serve until told to stop; returns the exit code."""
    reading = read("quire serve", _ABOUT, argv)
    config = reading.serve_config()
    reading.start_logging(config.server.log_level)

    model = config.engine.model
    with interrupting(), contextlib.ExitStack() as started:
        with held():
            from quire.checkpoint.resolve import resolve
            from quire.engine.client import EngineProcess
        path = resolve(model.model, revision=model.revision, download_dir=model.download_dir, hf_token=model.hf_token)
        with held():
            process = EngineProcess(config.engine.located(path))
            started.callback(process.stop, timeout_s=0)
            # The engine reads its weights while this process loads what a server needs.
            from quire.server.serve import run
        return run(config, path, process)
