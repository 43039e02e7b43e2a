"""Measures Quire on a machine with a CUDA device, unattended; `make gpu-bench`.

    PYTHONPATH=src:. python3 -m benchmarks.gpu.bench
    PYTHONPATH=src:. python3 -m benchmarks.gpu.bench --dry-run          (on any machine: everything once, tiny)

First the device's limits; then kernels are compiled, side by side; then models, the peer and operators by themselves,
one after another, each in a process of its own with a share of the time. Nothing stops at a failure. Writes
gpu-bench.json and gpu-bench.md to $OUT or benchmarks/results, a summary last.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from quire.core import threads

threads.settle()  # before torch is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from benchmarks.gpu import bench_kernels, bench_limits, bench_models, bench_peer, report  # noqa: E402
from benchmarks.gpu.check_ops import import_bodies  # noqa: E402
from benchmarks.gpu.journal import Journal, Outcome, Part, add_flags, run_here, supervise, work  # noqa: E402
from benchmarks.gpu.serving import PEER  # noqa: E402

COMPILE_S = 100.0
"""For all kernels, several at a time."""
MODELS = {"llama-8b-bf16": 115.0, "qwen3-30b-a3b-fp8": 80.0, "llama-8b-fp8": 60.0, "qwen3-30b-a3b-bf16": 60.0}
"""Seconds that each may take, those that matter most first."""
LIMITS_S, PEER_S, KERNELS_S = 40.0, 70.0, 80.0
START_S = 10.0
"""What a process takes before it measures."""
_LIMITS = "QUIRE_BENCH_LIMITS"
"""Names the file through which parts know the limits."""


def main(argv: Sequence[str] | None = None) -> int:
    began = time.monotonic()
    options = _parser().parse_args(argv)
    if not options.dry_run and not torch.cuda.is_available():
        print("torch sees no CUDA device here; --dry-run tries this program on any machine.", file=sys.stderr)
        return 2
    device = torch.device("cpu" if options.dry_run else "cuda")
    reason = import_bodies("references")
    if reason and not options.dry_run:
        print(f"operators run by their references: {reason}", file=sys.stderr)
    if options.part:
        parts = [one for stage in _stages(device) for one in stage]
        work(parts, options.part, Path(options.journal), options.seconds)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ[_LIMITS] = str(Path(folder) / bench_limits.FILE)
        stages = [[part for part in stage if re.search(options.only, part.name)] for stage in _stages(device)]
        if options.dry_run and not options.apart:
            outcomes = run_here([part for stage in stages for part in stage])
        else:
            command = [sys.executable, "-m", "benchmarks.gpu.bench", *(["--dry-run"] if options.dry_run else [])]
            outcomes = _supervise(command, stages, Path(folder), began + 60 * options.minutes, options.workers)
    facts = report.machine(device.type)
    name = "gpu-bench-trial" if options.dry_run else "gpu-bench"
    page = report.write(name, "Speed on a CUDA device", facts, outcomes, time.monotonic() - began)
    report.say(summary(outcomes, page, time.monotonic() - began))
    return int(any(outcome.error for outcome in outcomes))


def summary(outcomes: Sequence[Outcome], page: Path, seconds: float) -> list[str]:
    """The figures that goals are set for, and what is missing."""
    rows = [row for outcome in outcomes for row in outcome.rows]
    lines = [""]
    for row in rows:
        if row["table"] == "limits":
            lines.append(f"{row['what']}: {row['value']:.0f} {row['unit']}")
        elif row["table"] == "decode" and "ms" in row:
            idle = "" if row.get("idle") is None else f", idle {row['idle']:.1%}"
            lines.append(
                f"{row['model']} decode {row['batch']} at {row['context']}: {row['ms']:.2f} ms, floor "
                f"{row['floor_ms']:.2f}, {row['share']:.0%}, launch {row['launch_us']:.0f} us{idle}"
            )
        elif row["table"] == "prompts" and "ms" in row:
            lines.append(
                f"{row['model']} prompt {row['tokens']}: {row['ms']:.1f} ms, floor {row['floor_ms']:.1f}, "
                f"{row['share']:.0%}"
            )
        elif row["table"] == "serving":
            share, host = f"{row['share']:.0%} of the floor", f"host {row['host_us']:.0f} us a step"
            lines.append(f"{row['model']} {row['workload']}: {row['tokens_per_s']:.0f} tokens/s, {share}, {host}")
    lines += _beside_peer(rows)
    for outcome in outcomes:
        if outcome.error:
            lines.append(f"INCOMPLETE {outcome.name}: {outcome.error.partition(chr(10))[0][:200]}")
    return [*lines, f"{seconds:.0f} s; {page}"]


def _beside_peer(rows: Sequence[dict[str, object]]) -> list[str]:
    ours = [row for row in rows if row.get("workload") == PEER.name and row["model"] == "llama-8b-bf16"]
    theirs = [row for row in rows if row["table"] == "transformers" and row["what"] == "second run"]
    if not ours or not theirs:
        return []
    one, other = float(str(ours[-1]["tokens_per_s"])), float(str(theirs[-1]["tokens_per_s"]))
    return [f"transformers: {other:.0f} tokens/s, Quire {one:.0f}: {one / other:.1f} times"]


def _supervise(
    command: Sequence[str], stages: Sequence[Sequence[Part]], folder: Path, deadline: float, workers: int
) -> list[Outcome]:
    """One stage after another; in the second, that of compilers, as many parts at a time as there are workers."""
    limits, compiling, measuring = stages
    outcomes = supervise(command, limits, folder, deadline=deadline)
    compiled_by = min(deadline, time.monotonic() + COMPILE_S)
    outcomes += supervise(command, compiling, folder, deadline=compiled_by, workers=workers)
    return outcomes + supervise(command, measuring, folder, deadline=deadline, is_shared=True)


def _stages(device: torch.device) -> list[list[Part]]:
    """What the device gives; compiling; and what is measured, that which matters most first."""
    operators = bench_kernels.operators()
    compiling = [Part(f"compile {name}", COMPILE_S, partial(_compile_model, name, device)) for name in MODELS]
    compiling += [Part(f"compile {name}", COMPILE_S, partial(_compile_op, name, device)) for name in operators]
    models = [Part(name, limit, partial(_model, name, device)) for name, limit in MODELS.items()]
    peer = Part("transformers", PEER_S, partial(_peer, device))
    kernels = Part("operators", KERNELS_S, partial(_operators, device))
    return [[Part("limits", LIMITS_S, partial(_limits, device))], compiling, [*models[:2], peer, kernels, *models[2:]]]


def _limits(device: torch.device, journal: Journal, seconds: float) -> None:
    bench_limits.find(device, _place(), journal)


def _compile_model(name: str, device: torch.device, journal: Journal, seconds: float) -> None:
    bench_models.compile_kernels(name, device, bench_limits.known(_place()))


def _compile_op(name: str, device: torch.device, journal: Journal, seconds: float) -> None:
    """Its times are worth nothing, beside others."""
    bench_kernels.run([name], device, bench_limits.known(_place()), seconds, Journal())


def _model(name: str, device: torch.device, journal: Journal, seconds: float) -> None:
    bench_models.run(name, device, bench_limits.known(_place()), seconds - START_S, journal)


def _peer(device: torch.device, journal: Journal, seconds: float) -> None:
    bench_peer.run(device, journal)


def _operators(device: torch.device, journal: Journal, seconds: float) -> None:
    limits = bench_limits.known(_place())
    bench_kernels.run(bench_kernels.operators(), device, limits, seconds - START_S, journal)


def _place() -> Path:
    return Path(os.environ.get(_LIMITS, bench_limits.FILE))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="of the parts, those whose name this regular expression finds")
    parser.add_argument("--minutes", type=float, default=7.5, help="all ends by then")
    parser.add_argument("--workers", type=int, default=8, help="parts at a time while kernels are compiled")
    parser.add_argument("--dry-run", action="store_true", help="small shapes on the CPU, in this process")
    parser.add_argument("--apart", action="store_true", help="in a dry run too, each part in a process of its own")
    add_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
