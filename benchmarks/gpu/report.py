"""Writes down what was found: JSON with everything, a page of tables, and a few lines last."""

import json
import os
import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.journal import Outcome, Row

ROOT = Path(__file__).parents[2]


def folder() -> Path:
    """Where results go: $OUT, or benchmarks/results."""
    chosen = Path(os.environ.get("OUT") or ROOT / "benchmarks" / "results")
    chosen.mkdir(parents=True, exist_ok=True)
    return chosen


def machine(device: str) -> dict[str, Any]:
    """What this was measured on."""
    import torch

    facts: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    try:
        import triton

        facts["triton"] = triton.__version__
    except ImportError:
        facts["triton"] = None
    if device == "cuda" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "device": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
        }
    else:
        facts["device"] = platform.machine()
    return facts | {"commit": _commit()}


def write(name: str, title: str, facts: dict[str, Any], outcomes: Sequence[Outcome], seconds: float) -> Path:
    """NAME.json and NAME.md; returns the page's path."""
    place = folder()
    whole = {
        "title": title,
        "machine": facts,
        "seconds": round(seconds, 1),
        "parts": [outcome._asdict() for outcome in outcomes],
    }
    (place / f"{name}.json").write_text(json.dumps(whole, indent=1))
    page = place / f"{name}.md"
    page.write_text(_page(title, facts, outcomes, seconds))
    return page


def _page(title: str, facts: dict[str, Any], outcomes: Sequence[Outcome], seconds: float) -> str:
    told = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
    lines = [f"# {title}", "", f"{told}. {seconds:.0f} s in all.", ""]
    tables: defaultdict[str, list[Row]] = defaultdict(list)
    for outcome in outcomes:
        for row in outcome.rows:
            tables[row["table"]].append({name: value for name, value in row.items() if name != "table"})
    for table, rows in tables.items():
        lines += [f"## {table[:1].upper()}{table[1:]}", "", *_table(rows), ""]
    lines += ["## Parts", ""]
    parts: list[Row] = [
        {"part": outcome.name, "seconds": outcome.seconds, "came of it": (outcome.error or "done").partition("\n")[0]}
        for outcome in outcomes
    ]
    lines += _table(parts)
    for outcome in outcomes:
        if "\n" in outcome.error:
            lines += ["", f"### {outcome.name}", "", "```", outcome.error, "```"]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Row]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    return lines + ["| " + " | ".join(_cell(row.get(name)) for name in names) + " |" for row in rows]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value).replace("|", "/").replace("\n", " ")


def _commit() -> str:
    """Of the checkout, where git knows it."""
    try:
        found = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def say(lines: Sequence[str]) -> None:
    """Last of all."""
    print("\n".join(lines))
    sys.stdout.flush()
