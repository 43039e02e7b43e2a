"""Checks on a machine with a CUDA device that it computes what it should, unattended; `make gpu-check`.

    PYTHONPATH=src:. python3 -m benchmarks.gpu.check [--smollm2 FOLDER]
    PYTHONPATH=src:. python3 -m benchmarks.gpu.check --dry-run [--stand-in interpreter]     (on any machine)

Each operator and each family of models is a part, run in a process of its own, several at a time. Nothing stops at a
failure. Writes gpu-check.json and gpu-check.md to $OUT or benchmarks/results, a summary last. Exits with 1 if anything
is wrong, or was not reached.
"""

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from quire.core import threads

threads.settle()  # before torch is imported

import torch  # noqa: E402
from benchmarks.gpu import check_engine, check_ops, check_sampling, report  # noqa: E402
from benchmarks.gpu.journal import Journal, Outcome, Part, add_flags, run_here, supervise, work  # noqa: E402

OP_LIMIT_S, ENGINE_LIMIT_S = 150.0, 200.0


def main(argv: Sequence[str] | None = None) -> int:
    began = time.monotonic()
    options = _parser().parse_args(argv)
    if not options.dry_run and not torch.cuda.is_available():
        print("torch sees no CUDA device here; --dry-run tries this program on any machine.", file=sys.stderr)
        return 2
    reason = check_ops.import_bodies(_stand_in(options))
    parts = [part for part in _parts(options, reason) if re.search(options.only, part.name)]
    if options.part:
        work(parts, options.part, Path(options.journal), options.seconds)
        return 0
    if options.dry_run and not options.apart:
        outcomes = run_here(parts)
    else:
        command = [sys.executable, "-m", "benchmarks.gpu.check", *_passed_on(options)]
        with tempfile.TemporaryDirectory() as folder:
            deadline = began + 60 * options.minutes
            outcomes = supervise(command, parts, Path(folder), deadline=deadline, workers=options.workers)
    facts = report.machine("cpu" if options.dry_run else "cuda")
    name = "gpu-check-trial" if options.dry_run else "gpu-check"
    page = report.write(name, "What a CUDA device computes", facts, outcomes, time.monotonic() - began)
    report.say(summary(outcomes, page, time.monotonic() - began))
    return int(any(outcome.error for outcome in outcomes))


def summary(outcomes: Sequence[Outcome], page: Path, seconds: float) -> list[str]:
    """What is wrong, line by line, and how much is right."""
    lines = [""]
    for outcome in outcomes:
        if outcome.error:
            lines.append(f"WRONG {outcome.name}: {outcome.error.partition(chr(10))[0]}")
        for row in outcome.rows:
            if row.get("ok") is False:
                told = ", ".join(f"{name} {value}" for name, value in row.items() if name not in ("table", "ok"))
                lines.append(f"  {told}"[:240])
    rows = [row for outcome in outcomes for row in outcome.rows if row.get("ok") is not None]
    parts = sum(not outcome.error for outcome in outcomes)
    lines.append(
        f"{parts} of {len(outcomes)} parts and {sum(row['ok'] for row in rows)} of {len(rows)} cases are right; "
        f"{seconds:.0f} s; {page}"
    )
    return lines


def _parts(options: argparse.Namespace, reason: str) -> list[Part]:
    device, stand_in = torch.device("cpu" if options.dry_run else "cuda"), _stand_in(options)
    found = []

    def add(name: str, limit_s: float, run: Callable[[Journal], None]) -> None:
        found.append(Part(name, limit_s, lambda journal, seconds: run(journal)))

    if options.smollm2:
        add("smollm2", ENGINE_LIMIT_S, partial(check_engine.check_model, Path(options.smollm2), device.type))
    for name in options.families or check_engine.families():
        add(f"family {name}", ENGINE_LIMIT_S, partial(check_engine.check_family, name, device.type))
    if reason:
        add("operators", OP_LIMIT_S, partial(_fail, reason))
        return found
    add("sampling", OP_LIMIT_S, partial(check_sampling.check, device, stand_in))
    for name in check_ops.device_ops():
        add(f"op {name}", OP_LIMIT_S, partial(check_ops.check_op, name, device, stand_in))
    return found


def _fail(reason: str, journal: Journal) -> None:
    raise AssertionError(reason)


def _stand_in(options: argparse.Namespace) -> check_ops.StandIn:
    stand_in: check_ops.StandIn = options.stand_in if options.dry_run else "none"
    return stand_in


def _passed_on(options: argparse.Namespace) -> list[str]:
    flags = ["--smollm2", options.smollm2] if options.smollm2 else []
    return flags + (["--dry-run", "--stand-in", options.stand_in] if options.dry_run else [])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", default="", help="folder of SmolLM2-135M-Instruct, to be checked too")
    parser.add_argument("--families", nargs="*", help="of the tiny models, these only")
    parser.add_argument("--only", default="", help="of the parts, those whose name this regular expression finds")
    parser.add_argument("--minutes", type=float, default=7.5, help="all ends by then")
    parser.add_argument("--workers", type=int, default=8, help="parts at a time")
    parser.add_argument("--dry-run", action="store_true", help="small shapes on the CPU, in this process")
    parser.add_argument("--apart", action="store_true", help="in a dry run too, each part in a process of its own")
    parser.add_argument("--stand-in", choices=("references", "interpreter"), default="references", help="in a dry run")
    add_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
