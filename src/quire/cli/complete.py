"""``quire complete``: continue a text given with ``-q``, through a pipe, or line by line."""

import sys
from collections.abc import Iterator, Sequence

from quire.cli.talk import is_piped, open_api, read_arguments, sampling, show
from quire.core.errors import ConfigError

_ABOUT = "Continue a text: on a running server if there is one, else on an engine of its own."
_MAX_TOKENS = 128
"""The API's own default, 16, is too short to read."""


def main(argv: Sequence[str]) -> int:
    """Continue every text of the input; returns the exit code."""
    reading = read_arguments("quire complete", _ABOUT, argv, "continue this and end")
    texts = _texts(vars(reading.options).get("quick"))
    api, door = open_api(reading)
    try:
        for text in texts:
            show(api.complete(text, {"max_tokens": _MAX_TOKENS} | sampling(reading)))
    finally:
        door.close()
    return 0


def _texts(quick: str | None) -> Iterator[str]:
    if quick is None and not is_piped():
        return _lines()
    text = sys.stdin.read() if quick is None else quick
    if not text:
        raise ConfigError("there is no text to continue: put it after -q, or into standard input.")
    return iter([text])


def _lines() -> Iterator[str]:
    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return
        if line:
            yield line
