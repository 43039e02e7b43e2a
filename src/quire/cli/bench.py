"""``quire bench``: how fast a server is, or an engine without one."""

import difflib
from collections.abc import Sequence
from importlib import import_module

from quire.core.errors import ConfigError

_COMMANDS = {
    "serve": ("quire.cli.bench_serve", "measure a running server, as its clients see it"),
    "throughput": ("quire.cli.bench_throughput", "measure an engine that is given everything at once"),
    "latency": ("quire.cli.bench_latency", "measure how long an engine takes for one batch"),
}
"""Name -> the module whose ``main(argv) -> exit code`` runs it, and what it does."""


def main(argv: Sequence[str]) -> int:
    """Run one of the benchmarks; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    command, *rest = argv
    if command not in _COMMANDS:
        near = difflib.get_close_matches(command, _COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(_COMMANDS)}."
        raise ConfigError(f"quire bench has no {command}{hint}")
    code: int = import_module(_COMMANDS[command][0]).main(rest)
    return code


def _overview() -> str:
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:<{width}}  {about}" for name, (_, about) in _COMMANDS.items()]
    return "\n".join(["usage: quire bench COMMAND ...", "", *lines, "", "quire bench COMMAND --help shows its flags."])
