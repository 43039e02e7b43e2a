"""A summary as a page of markdown: the machine, then for each match the figures, the ratios, and what failed."""

from typing import Any

from benchmarks.peers.summary import Summary, best_peer
from benchmarks.peers.workloads import METRICS

LIMITS = {
    "read_gb_s_1": "DRAM read, one thread, GB/s",
    "read_gb_s": "DRAM read, all threads, GB/s",
    "fp32_gflop_s": "fp32, GFLOP/s",
    "bf16_gflop_s": "bf16 dot products, GFLOP/s",
    "int8_gop_s": "int8 dot products, GOP/s",
}


def page(summary: Summary, plot: str | None) -> str:
    """``plot`` is the picture's file name, if there is one."""
    facts = summary["facts"]
    parts = [
        "# Quire beside its peers on a CPU",
        "All engines in one run, in turn, round by round; the others sleep meanwhile. Cells are medians over the "
        "rounds, with the lowest and highest. Ratios are taken within each round; above 1 Quire is better. What the "
        "workloads are, and how each engine is run: [benchmarks/peers](../peers/README.md).",
        _machine(facts, summary["limits"]),
    ]
    if plot:
        parts.append(f"![Ratios]({plot})")
    for peer, why in summary["not_installed"].items():
        parts.append(f"**{peer} could not be installed**, and is missing below: {why}")
    for match in summary["matches"]:
        parts += _match(match)
    return "\n\n".join(parts) + "\n"


def _machine(facts: dict[str, Any], limits: dict[str, Any]) -> str:
    lines = []
    if facts:
        lines += [
            f"Machine: {facts['cpu']} (family/model {facts['family']}), {facts['cores']} cores, "
            f"{facts['memory_gb']} GB, {', '.join(facts['extensions'])}; {facts['system']}. "
            f"Threads: {facts['threads']}. Commit: {facts['commit']}. Date: {facts['date']}. "
            f"Command: `{facts['command']}`",
            "",
        ]
    if not limits:
        return "\n".join([*lines, "The machine's limits were not measured: there is no C++ compiler."])
    lines += ["Measured at every round of the same run:", ""]
    return "\n".join([*lines, *_limits_table(limits)])


def _limits_table(limits: dict[str, Any]) -> list[str]:
    rows = [[title, _cell(limits[key])] for key, title in LIMITS.items() if key in limits]
    return _table(["limit", "median (lowest - highest)"], rows)


def _match(match: Summary) -> list[str]:
    shown = [key for key in METRICS if any(key in one["metrics"] for one in match["contenders"].values())]
    heads = [METRICS[key].title for key in shown]
    rows = []
    for name, one in match["contenders"].items():
        rows.append([f"**{name}**" if name.startswith("quire") else name, *_cells(one, shown)])
    if match["ceilings"]:
        rows.append(["*ceiling*", *(_number(match["ceilings"].get(key)) for key in shown)])
    parts = [f"## {match['title']}, {match['weights']}"]
    if shown:
        parts.append("\n".join(_table(["", *heads], rows)))
    parts.append("\n".join(_engines(match)))
    ratios = _ratios(match, shown)
    if ratios:
        parts.append("\n".join(ratios))
    failures = [
        f"* {name}, {what}: {why}" for name, one in match["contenders"].items() for what, why in one["failures"].items()
    ]
    if failures:
        parts.append("Failed:\n\n" + "\n".join(failures))
    return parts


def _cells(one: Summary, shown: list[str]) -> list[str]:
    return [_cell(one["metrics"][key]) if key in one["metrics"] else "" for key in shown]


def _engines(match: Summary) -> list[str]:
    rows = []
    for name, one in match["contenders"].items():
        rows.append([
            name, one["version"] or "", one["settings"] or "", _number(one["start_s"]), _number(one["server_start_s"]),
            _number(one["peak_gb"]), _number(one["server_peak_gb"]), _accuracy(one["same_answers"]),
        ])  # fmt: skip
    heads = ["", "version", "run as", "start s", "server start s", "peak GB", "server peak GB", "answers as in float32"]
    return _table(heads, rows)


def _accuracy(same: list[float] | None) -> str:
    return f"{same[0]} of {same[1]}, {same[2]:.0%} of tokens" if same else ""


def _ratios(match: Summary, shown: list[str]) -> list[str]:
    rows = []
    for ours, metrics in match["ratios"].items():
        for key in shown:
            if key in metrics:
                peer, ratio = best_peer(metrics[key])
                share = _share(match, ours, key)
                rows.append([ours, METRICS[key].title, peer, f"**{ratio['median']:.2f}**", _range(ratio, 2), share])
    heads = ["", "workload", "best peer", "ratio", "lowest - highest", "of the ceiling"]
    return _table(heads, rows) if rows else []


def _share(match: Summary, ours: str, key: str) -> str:
    ceiling = match["ceilings"].get(key)
    if not ceiling:
        return ""
    value = match["contenders"][ours]["metrics"][key]["median"]
    return f"{(value / ceiling if METRICS[key].higher_is_better else ceiling / value):.0%}"


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _cell(spread: dict[str, float]) -> str:
    if spread["rounds"] == 1:
        return _number(spread["median"])
    return f"{_number(spread['median'])} ({_range(spread, 0 if spread['median'] >= 100 else 1)})"


def _range(spread: dict[str, float], digits: int) -> str:
    return f"{spread['min']:,.{digits}f} - {spread['max']:,.{digits}f}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
