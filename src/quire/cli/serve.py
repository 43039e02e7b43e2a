"""``quire serve``: an engine in its own process, and the HTTP server in this one."""

from collections.abc import Sequence

from quire.cli.flags import read

_ABOUT = "Serve a model over HTTP. Without MODEL, a small one is fetched and served."


def main(argv: Sequence[str]) -> int:
    """Serve until told to stop; returns the exit code."""
    reading = read("quire serve", _ABOUT, argv)
    config = reading.serve_config()
    reading.start_logging(config.server.log_level)

    from quire.checkpoint.resolve import resolve
    from quire.engine.client import EngineProcess

    model = config.engine.model
    path = resolve(model.model, revision=model.revision, download_dir=model.download_dir, hf_token=model.hf_token)
    process = EngineProcess(config.engine.located(path))
    try:
        # The engine reads its weights while this process loads what a server needs.
        from quire.server.serve import run

        return run(config, path, process)
    finally:
        process.stop(timeout_s=0)
