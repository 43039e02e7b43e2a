"""From a run's journal to figures: medians, spreads, per-round ratios, ceilings. Everything the report says is here.

Law: a ratio is taken between two engines in the same round, and the median is taken of those ratios; it is above one
where Quire is better, whichever way the metric goes.
"""

import statistics
from typing import Any

from benchmarks.peers.ceilings import ceilings, weight_bytes
from benchmarks.peers.journal import Journal
from benchmarks.peers.models import MODELS, Models, PreparationFailed
from benchmarks.peers.workloads import METRICS

Summary = dict[str, Any]

PEAKS = {"bf16": "bf16_gflop_s", "8bit": "int8_gop_s", "4bit": "int8_gop_s"}
CEILING_FORMS = {"bf16": "BF16", "8bit": "Q8_0", "4bit": "Q4_0"}


def summarize(journal: Journal, models: Models) -> Summary:
    """The whole run as JSON: facts, and a match for each model and kind of weights in the order they were run."""
    matches: dict[tuple[str, str], None] = {}
    for entry in journal.entries:
        if entry["kind"] in ("result", "failure", "limits"):
            matches.setdefault((entry["model"], entry["weights"]))
    facts = journal.find("facts")
    return {
        "facts": facts[-1] if facts else {},
        "limits": _limits(journal.find("limits")),
        "not_installed": {entry["contender"]: entry["why"] for entry in journal.find("failure", what="installation")},
        "matches": [_match(journal, models, model, weights) for model, weights in matches if model in MODELS],
    }


def _match(journal: Journal, models: Models, model: str, weights: str) -> Summary:
    where = {"model": model, "weights": weights}
    values: dict[str, dict[str, dict[int, float]]] = {}  # contender -> metric -> round -> value
    for entry in journal.find("result", **where):
        for metric, value in entry["metrics"].items():
            values.setdefault(entry["contender"], {}).setdefault(metric, {})[entry["round"]] = value
    names = dict.fromkeys(e["contender"] for e in journal.entries if e.get("contender") and _is_at(e, where))
    limits = _limits(journal.find("limits", **where))
    return {
        **where,
        "title": MODELS[model].title,
        "limits": limits,
        "contenders": {name: _contender(journal, where, name, values.get(name, {})) for name in names},
        "ratios": _ratios(values),
        "ceilings": _ceilings(models, model, weights, limits),
    }


def _contender(journal: Journal, where: dict[str, str], name: str, metrics: dict[str, dict[int, float]]) -> Summary:
    who = {**where, "contender": name}
    engines, servers = journal.find("engine", **who), journal.find("server", **who)
    accuracy = journal.find("accuracy", **who)
    return {
        "version": engines[-1]["version"] if engines else None,
        "settings": engines[-1]["settings"] if engines else None,
        "start_s": statistics.median(e["start_s"] for e in engines) if engines else None,
        "server_start_s": statistics.median(e["start_s"] for e in servers) if servers else None,
        "peak_gb": max((e["peak_gb"] for e in engines), default=None),
        "server_peak_gb": max((e["peak_gb"] for e in servers), default=None),
        "same_answers": [accuracy[-1]["same"], accuracy[-1]["of"], accuracy[-1]["agreed"]] if accuracy else None,
        "metrics": {metric: spread(list(rounds.values())) for metric, rounds in metrics.items()},
        "failures": {e["what"]: e["why"] for e in journal.find("failure", **who)},
    }


def _ratios(values: dict[str, dict[str, dict[int, float]]]) -> Summary:
    """Quire's contender -> metric -> peer -> spread of the ratios of the rounds that both have."""
    found: Summary = {}
    for ours in (name for name in values if name.startswith("quire")):
        for metric, rounds in values[ours].items():
            for peer in (name for name in values if not name.startswith("quire")):
                theirs = values[peer].get(metric, {})
                ratios = [_better_by(metric, rounds[n], theirs[n]) for n in rounds if n in theirs]
                if ratios:
                    found.setdefault(ours, {}).setdefault(metric, {})[peer] = spread(ratios)
    return found


def _better_by(metric: str, ours: float, theirs: float) -> float:
    return ours / theirs if METRICS[metric].higher_is_better else theirs / ours


def spread(numbers: list[float]) -> dict[str, float]:
    return {"median": statistics.median(numbers), "min": min(numbers), "max": max(numbers), "rounds": len(numbers)}


def best_peer(peers: dict[str, dict[str, float]]) -> tuple[str, dict[str, float]]:
    """The peer that Quire is least ahead of."""
    return min(peers.items(), key=lambda item: item[1]["median"])


def _limits(entries: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    names = ("read_gb_s_1", "read_gb_s", "fp32_gflop_s", "bf16_gflop_s", "int8_gop_s")
    found = {name: [entry[name] for entry in entries if entry.get(name)] for name in names}
    return {name: spread(numbers) for name, numbers in found.items() if numbers}


def _ceilings(models: Models, model: str, weights: str, limits: dict[str, dict[str, float]]) -> dict[str, float]:
    """At the run's best: a neighbour's noise lowers what is measured, not what the machine can do."""
    peak = limits.get(PEAKS[weights]) or limits.get("fp32_gflop_s")
    if not peak or "read_gb_s" not in limits:
        return {}
    try:
        path = models.path(MODELS[model], "Q4_K_M" if model == "gemma3" else CEILING_FORMS[weights])
    except PreparationFailed:
        return {}
    return ceilings(MODELS[model], weight_bytes(path), limits["read_gb_s"]["max"], peak["max"])


def _is_at(entry: dict[str, Any], where: dict[str, str]) -> bool:
    return all(entry.get(key) == value for key, value in where.items())
