"""Draw a summary: for each match, every engine's share of the best on each workload. Runs in the plot environment.

python -m benchmarks.peers.plot SUMMARY.json PICTURE.png
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SHOWN = {
    "w1_decode": "W1\ndecode", "w1_ttft_ms": "W1\nTTFT", "w2": "W2\nbatch", "w3": "W3\nprefill", "w4_on": "W4\nshared",
    "w5": "W5\n16 clients", "w6": "W6\n1 client",
}  # fmt: skip
COLOURS = {
    "quire": "#c0392b", "llama.cpp": "#2c7fb8", "llama-bench": "#7fcdbb", "openvino": "#6a51a3", "vllm": "#e6a11b",
    "transformers": "#969696",
}  # fmt: skip


def score(key: str, value: float) -> float:
    """Higher is better: a time becomes a rate."""
    return 1e3 / value if key.endswith("_ms") else value


def draw(axes: Any, match: dict[str, Any]) -> None:
    metrics = {name: one["metrics"] for name, one in match["contenders"].items() if one["metrics"]}
    keys = [key for key in SHOWN if any(key in found for found in metrics.values())]
    width = 0.8 / max(1, len(metrics))
    best = {key: max(score(key, m[key]["median"]) for m in metrics.values() if key in m) for key in keys}
    seen: dict[str, int] = {}
    for index, (name, found) in enumerate(metrics.items()):
        engine = name.split()[0]
        fade = 1 - 0.4 * seen.get(engine, 0)
        seen[engine] = seen.get(engine, 0) + 1
        for place, key in enumerate(keys):
            if key not in found:
                continue
            ends = sorted(score(key, found[key][end]) / best[key] for end in ("min", "max"))
            middle = score(key, found[key]["median"]) / best[key]
            axes.bar(
                place + index * width, middle, width, color=COLOURS.get(engine, "#444444"), alpha=fade,
                label=name if place == 0 or key == next(k for k in keys if k in found) else None,
                yerr=[[middle - ends[0]], [ends[1] - middle]], error_kw={"linewidth": 0.7},
            )  # fmt: skip
    for place, key in enumerate(keys):
        ceiling = match["ceilings"].get(key)
        if ceiling:
            level = score(key, ceiling) / best[key]
            axes.hlines(level, place - width / 2, place + 0.8 - width / 2, colors="black", linestyles="dotted")
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(keys))], [SHOWN[key] for key in keys])
    axes.set_title(f"{match['title']}, {match['weights']}", fontsize=10)
    axes.set_ylabel("of the best engine")
    axes.legend(fontsize=7, ncols=4, loc="lower right")


def main() -> None:
    summary = json.loads(Path(sys.argv[1]).read_text())
    matches = [m for m in summary["matches"] if any(one["metrics"] for one in m["contenders"].values())]
    if not matches:
        raise SystemExit("nothing was measured, so there is nothing to draw")
    figure, axes = plt.subplots(len(matches), 1, figsize=(10, 3.4 * len(matches)), squeeze=False)
    for row, match in zip(axes, matches, strict=True):
        draw(row[0], match)
    figure.suptitle("Dotted: what the measured limits of the machine would allow", fontsize=8, y=0.995)
    figure.tight_layout()
    figure.savefig(sys.argv[2], dpi=110)


if __name__ == "__main__":
    main()
