"""The command ``quire``: finds the subcommand, and turns what goes wrong into one line and an exit code.

Law: nothing heavy is imported before it is known that the command needs it; ``--help`` and ``--version`` import no more
than this file and the config structs.
"""

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from quire.core.errors import ConfigError, QuireError
from quire.version import __version__

_COMMANDS = {
    "serve": ("quire.cli.serve", "serve a model over HTTP, with the OpenAI API"),
    "chat": ("quire.cli.chat", "talk to a model, on a server or right here"),
    "complete": ("quire.cli.complete", "continue a text, on a server or right here"),
    "run-batch": ("quire.cli.run_batch", "answer a file of requests in the OpenAI batch format"),
    "bench": ("quire.cli.bench", "measure a server, or an engine without one"),
    "pull": ("quire.cli.pull", "fetch a model ahead of its use"),
}
"""Name -> the module whose ``main(argv) -> exit code`` runs it, and what it does."""

_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130
_EXIT_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the process's exit code. Never shows a traceback for what users or machines caused."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except ConfigError as error:
        _complain(error)
        return _EXIT_USAGE
    except QuireError as error:
        _complain(error)
        return 1
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left: leave too, and keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_BROKEN_PIPE
    except SystemExit as end:  # argparse, after --help
        return end.code if isinstance(end.code, int) else 0


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    command, *rest = words
    if command in ("-V", "--version", "version"):
        print(f"quire {__version__}")
        return 0
    if command not in _COMMANDS:
        near = difflib.get_close_matches(command, _COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(_COMMANDS)}."
        raise ConfigError(f"there is no command {command}{hint}")
    module = import_module(_COMMANDS[command][0])
    code: int = module.main(rest)
    return code


def _overview() -> str:
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:<{width}}  {about}" for name, (_, about) in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: quire COMMAND ...",
            "",
            "An LLM inference and serving engine.",
            "",
            *lines,
            "",
            "quire COMMAND --help shows a command's flags; quire --version the version.",
        ]
    )


def _complain(error: QuireError) -> None:
    print(f"quire: error: {error.message}", file=sys.stderr)
