"""A run as people and scripts read it: the printed block, the JSON, the file it goes to.

Labels, field names and file names are those of vLLM's tool, so that what reads its results reads these; extra fields
and percentiles stand beside them.
"""

import math
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from quire.bench.arrivals import Arrivals, Plan
from quire.bench.measure import Run
from quire.bench.metrics import TITLES, Summary
from quire.core.errors import ConfigError

_WIDTH = 50


class Heading(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, for the result's file."""

    date: str
    """YYYYmmdd-HHMMSS."""
    backend: str
    label: str | None
    model_id: str
    tokenizer_id: str | None
    num_prompts: int
    metadata: Mapping[str, str]
    arrivals: Arrivals
    max_concurrency: int | None


def block(summary: Summary, heading: Heading, metrics: Sequence[str]) -> str:
    """The table that is printed, of ``metrics`` in the order of TITLES."""
    rate = heading.arrivals.request_rate
    lines = [f"{' Serving Benchmark Result ':=^{_WIDTH}}"]
    lines.append(_line("Successful requests:", summary.completed))
    lines.append(_line("Failed requests:", summary.failed))
    if heading.max_concurrency is not None:
        lines.append(_line("Maximum request concurrency:", heading.max_concurrency))
    if rate != math.inf:
        lines.append(_line("Request rate configured (RPS):", rate))
    lines.append(_line("Benchmark duration (s):", summary.duration_s))
    lines.append(_line("Total input tokens:", summary.total_input))
    lines.append(_line("Total generated tokens:", summary.total_output))
    lines.append(_line("Request throughput (req/s):", summary.request_throughput))
    if summary.request_goodput is not None:
        lines.append(_line("Request goodput (req/s):", summary.request_goodput))
    lines.append(_line("Output token throughput (tok/s):", summary.output_throughput))
    lines.append(_line("Peak output token throughput (tok/s):", summary.max_output_tokens_per_s))
    lines.append(_line("Peak concurrent requests:", float(summary.max_concurrent_requests)))
    lines.append(_line("Total token throughput (tok/s):", summary.total_token_throughput))
    for name, (short, title) in TITLES.items():
        if name in metrics:
            found = summary.statistics[name]
            lines.append(f"{title:-^{_WIDTH}}")
            lines.append(_line(f"Mean {short} (ms):", found.mean))
            lines.append(_line(f"Median {short} (ms):", found.median))
            lines += [_line(f"P{p} {short} (ms):", value) for p, value in found.percentiles.items()]
    lines.append("=" * _WIDTH)
    return "\n".join(lines)


def result(
    heading: Heading, summary: Summary, run: Run, plan: Plan, metrics: Sequence[str], *, is_detailed: bool
) -> dict[str, Any]:
    """The result as JSON. ``is_detailed`` adds lists with one entry a request, in the order they were due."""
    arrivals = heading.arrivals
    rate = arrivals.request_rate
    fields: dict[str, Any] = {
        "date": heading.date,
        "endpoint_type": heading.backend,
        "backend": heading.backend,
        "label": heading.label,
        "model_id": heading.model_id,
        "tokenizer_id": heading.tokenizer_id,
        "num_prompts": heading.num_prompts,
        **heading.metadata,
        "request_rate": rate if rate != math.inf else "inf",
        "burstiness": arrivals.burstiness,
        "max_concurrency": heading.max_concurrency,
    }
    if arrivals.ramp_up is not None:
        fields["ramp_up_strategy"] = arrivals.ramp_up
        fields["ramp_up_start_rps"] = arrivals.start_rps
        fields["ramp_up_end_rps"] = arrivals.end_rps
        fields["rps_change_events"] = _rate_changes(plan, run.began_at)
    fields |= {
        "duration": summary.duration_s,
        "completed": summary.completed,
        "failed": summary.failed,
        "total_input_tokens": summary.total_input,
        "total_output_tokens": summary.total_output,
        "request_throughput": summary.request_throughput,
        "request_goodput": summary.request_goodput,
        "output_throughput": summary.output_throughput,
        "total_token_throughput": summary.total_token_throughput,
        "max_output_tokens_per_s": summary.max_output_tokens_per_s,
        "max_concurrent_requests": summary.max_concurrent_requests,
        "tokens_per_chunk": summary.tokens_per_chunk,
        "client_cpu_s": run.cpu_s,
    }
    for name in metrics:
        found = summary.statistics[name]
        fields |= {f"mean_{name}_ms": found.mean, f"median_{name}_ms": found.median, f"std_{name}_ms": found.std}
        fields |= {f"p{p}_{name}_ms": value for p, value in found.percentiles.items()}
    return fields | (_details(run) if is_detailed else {})


def file_name(heading: Heading) -> str:
    """``LABEL-RATEqps[-concurrencyN]-MODEL-DATE.json``."""
    arrivals = heading.arrivals
    traffic = f"{arrivals.request_rate}qps"
    if arrivals.ramp_up is not None:
        traffic = f"ramp-up-{arrivals.ramp_up}-{arrivals.start_rps:g}qps-{arrivals.end_rps:g}qps"
    limit = f"-concurrency{heading.max_concurrency}" if heading.max_concurrency is not None else ""
    model = heading.model_id.rstrip("/").rpartition("/")[2]
    return f"{heading.label or heading.backend}-{traffic}{limit}-{model}-{heading.date}.json".replace("/", "-")


def save(fields: Mapping[str, Any], path: Path, *, appends: bool = False) -> None:
    """Write one JSON object, or add it as a line to those that are there. Raises ConfigError."""
    try:
        with path.open("ab" if appends else "wb") as file:
            if appends and file.tell():
                file.write(b"\n")
            file.write(msgspec.json.encode(fields))
    except OSError as error:
        raise ConfigError(f"{path}: the result cannot be written: {error.strerror}.") from None


def prepare(folder: Path, name: str | None = None) -> None:
    """Make sure before a run that its result can be written after it. Raises ConfigError.

    ``name``: of the file in the folder; None where that is not known before.
    """
    path = folder / name if name is not None else None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made: {error.strerror}.") from None
    if path is not None and path.is_dir():
        raise ConfigError(f"{path}: is a folder, where the result's file is to be.")
    if not os.access(path if path is not None and path.exists() else folder, os.W_OK):
        raise ConfigError(f"{path or folder}: cannot be written to.")


def _line(label: str, value: float) -> str:
    return f"{label:<40} {value:<10}" if isinstance(value, int) else f"{label:<40} {value:<10.2f}"


def _rate_changes(plan: Plan, began_at: datetime) -> list[dict[str, Any]]:
    """When the rate passed each whole number of requests per second."""
    changes: list[dict[str, Any]] = []
    last = -1
    for start_s, rate in zip(plan.starts_s, plan.rates, strict=True):
        if int(rate) > last:
            last = int(rate)
            changes.append({"rps": last, "timestamp": (began_at + timedelta(seconds=start_s)).isoformat()})
    return changes


def _details(run: Run) -> dict[str, Any]:
    answers = run.answers
    return {
        "input_lens": [answer.num_prompt_tokens or 0 for answer in answers],
        "output_lens": [answer.num_tokens for answer in answers],
        "ttfts": [answer.ttft_s for answer in answers],
        "itls": [answer.chunk_gaps_s for answer in answers],
        "latencies": [answer.latency_s for answer in answers],
        "start_times": [answer.start_s for answer in answers],
        "queue_times": [answer.client_queue_time_s for answer in answers],
        "generated_texts": [answer.text for answer in answers],
        "errors": [answer.error for answer in answers],
    }
