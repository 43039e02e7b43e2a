"""``quire run-batch``: answers a file of requests, one JSON object a line, in the format of OpenAI's batch API.

Every line goes through the server's own routes, so it is answered as a server would. Answers are written in the order
of the requests. A line that fails says so in its answer and stops nothing. The output appears under its name only when
it is complete; what there is until then lies beside it as ``NAME.part``.
"""

import argparse
import asyncio
import os
import sys
import uuid
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from quire.cli.asgi import App, call
from quire.cli.fields import ENGINE_SECTIONS
from quire.cli.flags import read
from quire.core.config import EngineConfig
from quire.core.errors import ConfigError

_ABOUT = "Answer a file of requests in the OpenAI batch format."
_IN_FLIGHT = 256
"""Requests that the engine may choose from; answers that wait for an earlier one are kept in memory."""

Lines = Mapping[int, bytes]
"""Requests by the numbers of their lines in the file, which may have empty ones."""

Url = Literal["/v1/chat/completions", "/v1/completions", "/v1/responses"]


class _Named(msgspec.Struct, frozen=True):
    """What any line should have, so that its answer can be told from others."""

    custom_id: str


class BatchRequest(_Named, frozen=True):
    """One line of the input."""

    method: Literal["POST"]
    url: Url
    body: dict[str, Any]


class BatchResponse(msgspec.Struct, frozen=True):
    """What the route answered."""

    status_code: int
    request_id: str
    body: msgspec.Raw


class BatchError(msgspec.Struct, frozen=True):
    """Why a line was not a request at all."""

    code: str
    message: str


class BatchOutput(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the output."""

    id: str
    custom_id: str | None
    response: BatchResponse | None = None
    error: BatchError | None = None

    @property
    def has_failed(self) -> bool:
        return self.response is None or self.response.status_code != 200


class Counter(Protocol):
    """A progress bar, or anything else that counts."""

    def update(self, n: int) -> object: ...


def main(argv: Sequence[str]) -> int:
    """Answer the whole file; 0 if every request succeeded, 1 if some failed."""
    reading = read("quire run-batch", _ABOUT, argv, sections=ENGINE_SECTIONS, add_options=_add_options)
    options = vars(reading.options)
    for name in ("input_file", "output_file"):
        if name not in options:
            raise ConfigError(f"--{name.replace('_', '-')} is missing.")
    reading.start_logging("warning")
    source, target = Path(options["input_file"]), Path(options["output_file"])
    lines = read_lines(source)
    if not target.parent.is_dir():
        raise ConfigError(f"--output-file {target}: there is no folder {target.parent}.")
    num_failed = asyncio.run(_answer_file(reading.engine_config(), lines, target))
    print(f"{len(lines) - num_failed} answered, {num_failed} failed: {target}", file=sys.stderr)
    return 1 if num_failed else 0


async def _answer_file(config: EngineConfig, lines: Lines, target: Path) -> int:
    from tqdm import tqdm

    from quire.cli.local import LocalServer

    server = await LocalServer.start(config)
    try:
        with tqdm(total=len(lines), unit="request", disable=None) as bar:
            return await write_answers(server.app, lines, target, bar)
    finally:
        await server.close()


async def write_answers(app: App, lines: Lines, target: Path, progress: Counter) -> int:
    """Answer every line and write the answers to ``target``; how many failed."""
    part = target.with_name(target.name + ".part")
    num_failed = 0
    with part.open("wb") as file:
        async for output in _answers(app, lines):
            file.write(msgspec.json.encode(output) + b"\n")
            num_failed += output.has_failed
            progress.update(1)
        file.flush()
        os.fsync(file.fileno())
    part.replace(target)
    return num_failed


async def _answers(app: App, lines: Lines) -> AsyncIterator[BatchOutput]:
    """In the order of the lines, with up to _IN_FLIGHT under way."""
    running: deque[asyncio.Task[BatchOutput]] = deque()
    seen: set[str] = set()
    try:
        for number, line in lines.items():
            running.append(asyncio.create_task(_answer(app, number, line, seen)))
            if len(running) >= _IN_FLIGHT:
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()


async def _answer(app: App, number: int, line: bytes, seen: set[str]) -> BatchOutput:
    name = f"batch_req_{uuid.uuid4().hex}"
    try:
        request = msgspec.json.decode(line, type=BatchRequest)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, nested too deeply
        why_not = BatchError("invalid_line", f"line {number}: {error}")
        return BatchOutput(id=name, custom_id=_custom_id(line), error=why_not)
    why = "custom_id is used by an earlier line" if request.custom_id in seen else None
    if request.body.get("stream"):
        why = "a batch has no streams: leave out $.body.stream"
    if request.body.get("background"):
        why = "a batch waits for its answers: leave out $.body.background"
    seen.add(request.custom_id)
    if why is not None:
        error_ = BatchError("invalid_request", f"line {number}: {why}")
        return BatchOutput(id=name, custom_id=request.custom_id, error=error_)
    answer = await call(app, "POST", request.url, msgspec.json.encode(request.body))
    response = BatchResponse(answer.status, answer.headers.get("x-request-id", ""), msgspec.Raw(bytes(answer.body)))
    return BatchOutput(id=name, custom_id=request.custom_id, response=response)


def _custom_id(line: bytes) -> str | None:
    """Of a line that is no request, as far as it can be read."""
    try:
        return msgspec.json.decode(line, type=_Named).custom_id
    except (ValueError, RecursionError):
        return None


def read_lines(source: Path) -> Lines:
    """Raises ConfigError for a file that cannot be read, or holds nothing."""
    try:
        lines = dict(enumerate(source.read_bytes().splitlines(), start=1))
    except OSError as error:
        raise ConfigError(f"--input-file {source}: {error.strerror}.") from None
    lines = {number: line for number, line in lines.items() if line.strip()}
    if not lines:
        raise ConfigError(f"--input-file {source}: holds no requests.")
    return lines


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", "--input-file", metavar="FILE", help="requests, one JSON object a line")
    parser.add_argument("-o", "--output-file", metavar="FILE", help="where the answers go")
