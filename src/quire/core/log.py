"""How Quire logs: one line a record, on standard error, at one level for every process.

The level travels to child processes in the environment, so a configuration need not carry it.
"""

import logging
import os
import sys

LEVEL_VARIABLE = "QUIRE_LOG_LEVEL"


def configure(level: str | None = None) -> None:
    """Log from ``level`` up: debug, info, warning, error or critical; None takes what the parent process set.

    Other libraries are heard from warning up, or from debug when that is asked for. Called once, by a program's main.
    """
    level = level or os.environ.get(LEVEL_VARIABLE, "info")
    os.environ[LEVEL_VARIABLE] = level
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    logging.basicConfig(
        level=number if number <= logging.DEBUG else max(number, logging.WARNING),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
        force=True,
    )
    logging.getLogger("quire").setLevel(number)
