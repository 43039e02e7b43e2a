"""A run as a picture: how latencies are distributed, and what happened over time. Needs matplotlib."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from quire.bench.answer import Answer
from quire.bench.metrics import tokens_by_second, tpot_s
from quire.core.errors import ConfigError

_LEAST_MS = 0.1
"""Where times of nothing are drawn: pieces that came together."""


def check_plot(path: Path) -> None:
    """Raises ConfigError, before anything is measured, if the picture could not be drawn."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"--plot {path}: must end with .png, .svg or .pdf.")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--plot {path}: there is no folder {path.parent}.")
    if find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib: pip install 'quire[bench]'.")


def draw(path: Path, answers: Sequence[Answer], *, start_s: float, duration_s: float, title: str) -> None:
    """Four charts: TTFT, time between tokens, requests over time, output tokens over time. Raises ConfigError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    done = [answer for answer in answers if answer.is_success]
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    (first, between), (requests, tokens) = figure.subplots(2, 2)
    _distribution(first, {"TTFT": [answer.ttft_s for answer in done], "E2EL": [answer.latency_s for answer in done]})
    tpots = [tpot for answer in done if (tpot := tpot_s(answer)) is not None]
    _distribution(between, {"ITL": [gap for answer in done for gap in answer.chunk_gaps_s], "TPOT": tpots})
    for row, answer in enumerate(done):
        requests.plot([answer.start_s - start_s, answer.first_s - start_s], [row, row], color="tab:orange", lw=1)
        requests.plot([answer.first_s - start_s, answer.last_s - start_s], [row, row], color="tab:blue", lw=1)
    requests.set(xlabel="s", ylabel="request", title="until the first token (orange), after it (blue)")
    counts = tokens_by_second(done, start_s, duration_s)
    tokens.stairs(counts, fill=True)
    tokens.set(xlabel="s", ylabel="tok/s", title="output tokens", ylim=(0, None))
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise ConfigError(f"--plot {path}: cannot be written: {error.strerror}.") from None


def _distribution(axes: Any, groups: dict[str, list[float]]) -> None:
    """The share of values up to each time, on a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for name, values_s in groups.items():
        if values_s:
            values = np.maximum(np.sort(np.asarray(values_s)) * 1000, _LEAST_MS)
            axes.plot(values, np.arange(1, len(values) + 1) / len(values), drawstyle="steps-post", label=name)
    if any(groups.values()):
        axes.legend()
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="ms", ylabel="share of values", title=" and ".join(groups), ylim=(0, 1))
