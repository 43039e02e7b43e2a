"""What was measured, a line each, written as soon as it is known: an interrupted run goes on where it stopped.

Owns RUN/journal.jsonl. Each line is a dict with ``kind``; the kinds are

    facts      the machine, and how the run was asked for
    limits     round, model, weights, and what the machine could do at that moment
    engine     model, weights, contender, version, settings, start_s, peak_gb (latest line counts)
    server     model, weights, contender, start_s, peak_gb
    accuracy   model, weights, contender, same, of, agreed (share of tokens before the first that differs)
    result     model, weights, contender, workload, round, metrics
    failure    model, weights, contender, what, why
"""

import json
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class Journal:
    """The lines of one run. Belongs to the harness's only thread."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._path = folder / "journal.jsonl"
        self.entries: list[Entry] = []
        if self._path.exists():
            self.entries = [json.loads(line) for line in self._path.read_text().splitlines()]

    def add(self, kind: str, **fields: Any) -> None:
        entry = {"kind": kind, **fields}
        self.entries.append(entry)
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def has(self, kind: str, **fields: Any) -> bool:
        """Whether a line of that kind agrees with all ``fields``."""
        return bool(self.find(kind, **fields))

    def find(self, kind: str, **fields: Any) -> list[Entry]:
        wanted = {"kind": kind, **fields}
        return [entry for entry in self.entries if all(entry.get(key) == value for key, value in wanted.items())]
