"""Runs parts of a long measurement so that none can spoil the others: each in a process, with a time limit.

A part writes what it found line by line into a file of its own, so that what it had found is kept when it crashes or is
stopped; an illegal access on a device ends one process and no more. Law: ``supervise`` returns by its deadline, with
one outcome for each part, and says of each that was not reached that it was not.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

_LEAST_S = 5.0
"""Less time than this is not worth a start."""
_TAIL_CHARACTERS = 1500

Row = dict[str, Any]


class Journal:
    """What a part has found so far: rows, each of a table's name and its columns."""

    def __init__(self, file: TextIO | None = None) -> None:
        """Without a file, rows are only kept."""
        self.rows: list[Row] = []
        self.ended: str | None = None
        """None while the part runs, then empty, or what went wrong."""
        self._file = file

    def row(self, table: str, **columns: Any) -> None:
        plain = {name: value.item() if hasattr(value, "item") else value for name, value in columns.items()}
        self.rows.append({"table": table} | plain)
        self._write(self.rows[-1])

    def end(self, error: str) -> None:
        self.ended = error
        self._write({"end": error})

    def _write(self, line: Row) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    @classmethod
    def read(cls, path: Path) -> "Journal":
        """As far as it was written."""
        journal = cls()
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                found = json.loads(line)
            except json.JSONDecodeError:
                break  # it was stopped amid a line
            if "end" in found:
                journal.ended = found["end"]
            else:
                journal.rows.append(found)
        return journal


class Part(NamedTuple):
    """One thing to do. Its name is how its process is told what to do."""

    name: str
    limit_s: float
    """The most that it may take; less where all together would not end in time."""
    run: Callable[[Journal, float], None]
    """With the seconds that it has in fact."""


class Outcome(NamedTuple):
    """What came of a part."""

    name: str
    seconds: float
    error: str
    """Empty if it ran to its end."""
    rows: list[Row]


def run_part(part: Part, journal: Journal, seconds: float) -> None:
    """Run a part here; what it raises is written down, never raised."""
    try:
        part.run(journal, seconds)
    except Exception as error:
        traceback.print_exc()
        journal.end(f"{type(error).__name__}: {str(error)[:500]}")
    else:
        journal.end("")


def run_here(parts: Sequence[Part]) -> list[Outcome]:
    """All of them in this process, without limits: for a trial."""
    outcomes = []
    for part in parts:
        journal, began = Journal(), time.monotonic()
        run_part(part, journal, part.limit_s)
        outcomes.append(Outcome(part.name, time.monotonic() - began, journal.ended or "", journal.rows))
    return outcomes


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Those by which ``supervise`` tells a process what to do."""
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    parser.add_argument("--journal", default="", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0.0, help=argparse.SUPPRESS)


def work(parts: Sequence[Part], name: str, path: Path, seconds: float) -> None:
    """What a process started by ``supervise`` does."""
    part = next(part for part in parts if part.name == name)
    with path.open("w") as file:
        run_part(part, Journal(file), seconds)


class _Running(NamedTuple):
    part: Part
    process: subprocess.Popen[bytes]
    began: float
    ends: float
    journal: Path
    log: Path


def supervise(
    command: Sequence[str],
    parts: Sequence[Part],
    folder: Path,
    *,
    deadline: float,
    workers: int = 1,
    is_shared: bool = False,
) -> list[Outcome]:
    """Run each part as ``command --part NAME --journal FILE --seconds S``, in order, ``workers`` at a time.

    ``deadline`` by time.monotonic; what is running then is stopped. ``is_shared``: where the time left is less than the
    limits of all that wait, each is given its share of it, so that all are reached. Journals and logs go to ``folder``.
    """
    waiting, running, outcomes = deque(parts), list[_Running](), dict[str, Outcome]()
    try:
        while waiting or running:
            now = time.monotonic()
            while waiting and len(running) < workers and deadline - now >= _LEAST_S:
                share = (deadline - now) * workers / sum(part.limit_s for part in waiting) if is_shared else 1.0
                part = waiting.popleft()
                seconds = min(part.limit_s * min(1.0, share), deadline - now)
                running.append(_start(command, part, folder, seconds))
            if deadline - now < _LEAST_S:
                outcomes |= {part.name: Outcome(part.name, 0.0, "not reached: no time left", []) for part in waiting}
                waiting.clear()
            for one in [one for one in running if one.process.poll() is not None or now > one.ends]:
                running.remove(one)
                outcomes[one.part.name] = _finish(one)
                print(f"{one.part.name}: {outcomes[one.part.name].error or 'done'}", file=sys.stderr, flush=True)
            time.sleep(0.02)
    finally:
        for one in running:
            _stop(one.process)
    return [outcomes[part.name] for part in parts]


def _start(command: Sequence[str], part: Part, folder: Path, seconds: float) -> _Running:
    name = part.name.replace(" ", "-").replace("/", "-")
    journal, log = folder / f"{name}.jsonl", folder / f"{name}.log"
    now = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--part", part.name, "--journal", str(journal), "--seconds", f"{seconds:.1f}"],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return _Running(part, process, now, now + seconds, journal, log)


def _finish(one: _Running) -> Outcome:
    seconds = time.monotonic() - one.began
    status = one.process.poll()
    _stop(one.process)
    journal = Journal.read(one.journal)
    if journal.ended is not None:
        error = journal.ended
    elif status is None:
        error = f"stopped after {seconds:.0f} s"
    else:
        error = f"ended with {status}"
    if error:
        error += _tail(one.log)
    return Outcome(one.part.name, seconds, error, journal.rows)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """With what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(log: Path) -> str:
    said = log.read_text(errors="replace").strip()[-_TAIL_CHARACTERS:]
    return f"\n{said}" if said else ""
