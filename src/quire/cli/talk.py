"""What ``quire chat`` and ``quire complete`` share: whom to talk to, how to sample, how to print."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from quire.cli.api import Api, served_models
from quire.cli.door import Door, HttpDoor
from quire.cli.fields import ENGINE_SECTIONS
from quire.cli.flags import Reading, read
from quire.cli.numbers import finite, whole
from quire.cli.parser import AddOptions
from quire.core.errors import ConfigError, QuireError

_DEFAULT_URL = "http://127.0.0.1:8000"
_PROBE_TIMEOUT_S = 0.5
_SAMPLING = ("max_tokens", "temperature", "top_p")
_KEY_VARIABLES = ("QUIRE_API_KEY", "VLLM_API_KEY")


def read_arguments(
    prog: str, about: str, argv: Sequence[str], quick_help: str, add_options: AddOptions | None = None
) -> Reading:
    """A talking command's flags: the engine's, and where and how to ask. Logs from warning up."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("-q", "--quick", metavar="TEXT", help=quick_help)
        parser.add_argument("--url", help=f"server to talk to (default: {_DEFAULT_URL} if there is one, else none)")
        parser.add_argument("--model-name", metavar="NAME", help="which of the server's models (default: its first)")
        parser.add_argument("--api-key", metavar="KEY", help="the server's key; also QUIRE_API_KEY or VLLM_API_KEY")
        parser.add_argument("--max-tokens", type=whole(1), metavar="N", help="longest answer in tokens")
        parser.add_argument("--temperature", type=finite, metavar="X", help="0 chooses the likeliest token")
        parser.add_argument("--top-p", type=finite, metavar="X", help="sample from this share of the probability")
        if add_options is not None:
            add_options(parser)

    reading = read(prog, about, argv, sections=ENGINE_SECTIONS, add_options=add)
    reading.start_logging("warning")
    return reading


def sampling(reading: Reading) -> dict[str, Any]:
    """The sampling fields of a request that the command line gives."""
    given = vars(reading.options)
    return {name: given[name] for name in _SAMPLING if name in given}


def open_api(reading: Reading) -> tuple[Api, Door]:
    """The model to talk to: the server at ``--url``; else a server on the default port if it serves what is asked for
    and no setting of an engine is given; else an engine of our own. Says which on standard error.

    Raises QuireError. Close the door at the end.
    """
    options = vars(reading.options)
    key = options.get("api_key") or next(filter(None, map(os.environ.get, _KEY_VARIABLES)), None)
    wanted = options.get("model_name") or reading.settings.get("model")
    others = [name for name in reading.settings if name != "model"]
    if "url" in options:
        if others:
            raise ConfigError(f"--{others[0].replace('_', '-')} is the server's to set, not with --url.")
        door: Door = HttpDoor(options["url"], key)
        return Api(door, wanted), door
    if not others:
        found = _running_server(key, wanted)
        if found is not None:
            _say(f"talking to {found.model} at {_DEFAULT_URL}")
            return found, found.door
    config = reading.engine_config()
    _say(f"loading {config.model.model}")
    from quire.cli.local import LocalDoor

    door = LocalDoor(config)
    return Api(door, options.get("model_name")), door


def is_piped() -> bool:
    """Whether standard input is a file or a pipe rather than someone typing."""
    return not sys.stdin.isatty()


def show(pieces: Iterator[str]) -> str:
    """Print a text as it comes, end the line, and return the text. Ctrl-C stops it and is passed on."""
    text = ""
    try:
        for piece in pieces:
            text += piece
            print(piece, end="", flush=True)
    finally:
        pieces.close()  # type: ignore[attr-defined]  # every stream here is a generator
        print("", flush=True)
    return text


def _running_server(key: str | None, wanted: str | None) -> Api | None:
    door = HttpDoor(_DEFAULT_URL, key, connect_timeout_s=_PROBE_TIMEOUT_S)
    try:
        names = served_models(door)
    except (QuireError, msgspec.MsgspecError):
        return None
    return Api(door, wanted or names[0]) if wanted is None or wanted in names else None


def _say(line: str) -> None:
    if sys.stderr.isatty():
        print(f"({line})", file=sys.stderr, flush=True)
