"""The two questions a terminal asks of an OpenAI API, answered as a stream of text."""

from collections.abc import Iterable, Iterator
from typing import Any

from quire.bench.events import Choice, read_event
from quire.cli.door import Door
from quire.core.errors import QuireError


class Api:
    """One model behind a door."""

    def __init__(self, door: Door, model: str | None = None) -> None:
        """``model`` None takes the first that is served."""
        self.door = door
        self.model = model or served_models(door)[0]

    def chat(self, messages: list[dict[str, str]], sampling: dict[str, Any]) -> Iterator[str]:
        """The next message, piece by piece; closing the iterator stops it."""
        body = {"model": self.model, "messages": messages, "stream": True, **sampling}
        for choice in _choices(self.door.post("/v1/chat/completions", body)):
            yield (choice.delta and choice.delta.content) or ""

    def complete(self, prompt: str, sampling: dict[str, Any]) -> Iterator[str]:
        """The prompt's continuation, piece by piece; closing the iterator stops it."""
        body = {"model": self.model, "prompt": prompt, "stream": True, **sampling}
        for choice in _choices(self.door.post("/v1/completions", body)):
            yield choice.text or ""


def served_models(door: Door) -> list[str]:
    """The names a server answers to; raises QuireError if it is no such server, or serves nothing."""
    listing = door.get("/v1/models")
    try:
        names = [str(entry["id"]) for entry in listing["data"]]
    except (TypeError, KeyError):
        names = []
    if not names:
        raise QuireError(f"{door.name} does not list any models at /v1/models.")
    return names


def _choices(pieces: Iterable[bytes]) -> Iterator[Choice]:
    """What each server-sent event brings, up to ``[DONE]``; raises QuireError on an error event."""
    for line in _lines(pieces):
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        if data and line.startswith(b"data:"):
            yield from read_event(data)[0]
    raise QuireError("the answer broke off before its end")


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line.rstrip(b"\r") for line in lines)
