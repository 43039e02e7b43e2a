"""From answers to numbers.

TTFT is the time from sending a request to its first output; ITL the time between two pieces of output, over all
requests; TPOT a request's time after its first output, divided by its tokens but one (requests of one token have none);
E2EL the whole time of a request. Tokens are the server's own count. Where several tokens come in one piece, ITL is the
time between pieces and TPOT that between tokens; ``tokens_per_chunk`` tells by how much they differ.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from quire.bench.answer import Answer
from quire.core.errors import ConfigError

TITLES = {
    "ttft": ("TTFT", "Time to First Token"),
    "tpot": ("TPOT", "Time per Output Token (excl. 1st token)"),
    "itl": ("ITL", "Inter-token Latency"),
    "e2el": ("E2EL", "End-to-end Latency"),
    "client_queue_time": ("Client Queue Time", "Client-side Queueing"),
    "e2el_including_client_queue": ("E2EL incl. Client Queue", "Queue-inclusive End-to-end Latency"),
}
"""A metric's name in JSON -> its short name and the heading of its part of the report."""

GOODPUT_METRICS = ("ttft", "tpot", "e2el")


class Statistic(msgspec.Struct, frozen=True):
    """Milliseconds; all 0 where nothing was measured."""

    mean: float
    median: float
    std: float
    percentiles: dict[str, float]
    """``"99"`` or ``"99.9"`` -> the value that so many percent do not exceed."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A run in numbers. Only requests that were answered to their end count, but for ``failed``."""

    completed: int
    failed: int
    duration_s: float
    total_input: int
    total_output: int
    request_throughput: float
    request_goodput: float | None
    """Requests per second that kept every limit asked for; None if none was."""
    output_throughput: float
    total_token_throughput: float
    max_output_tokens_per_s: float
    """Output tokens in the best whole second."""
    max_concurrent_requests: int
    tokens_per_chunk: float
    statistics: dict[str, Statistic]


def summarize(
    answers: Sequence[Answer],
    *,
    start_s: float,
    duration_s: float,
    percentiles: Sequence[float],
    goodput_ms: Mapping[str, float],
) -> Summary:
    """``goodput_ms``: metric -> the most milliseconds a good request may take. Raises ConfigError for unknown ones."""
    unknown = [name for name in goodput_ms if name not in GOODPUT_METRICS]
    if unknown:
        raise ConfigError(f"--goodput {unknown[0]}: must be one of {', '.join(GOODPUT_METRICS)}.")
    done = [answer for answer in answers if answer.is_success]
    total_input = sum(answer.num_prompt_tokens or 0 for answer in done)
    total_output = sum(answer.num_tokens for answer in done)
    num_chunks = sum(answer.num_chunks for answer in done)
    values_s = {
        "ttft": [answer.ttft_s for answer in done],
        "tpot": [tpot for answer in done if (tpot := tpot_s(answer)) is not None],
        "itl": [gap for answer in done for gap in answer.chunk_gaps_s],
        "e2el": [answer.latency_s for answer in done],
        "client_queue_time": [answer.client_queue_time_s for answer in done],
        "e2el_including_client_queue": [answer.latency_s + answer.client_queue_time_s for answer in done],
    }
    duration_s = max(duration_s, 1e-9)
    num_good = sum(_is_good(answer, goodput_ms) for answer in done)
    return Summary(
        completed=len(done),
        failed=len(answers) - len(done),
        duration_s=duration_s,
        total_input=total_input,
        total_output=total_output,
        request_throughput=len(done) / duration_s,
        request_goodput=num_good / duration_s if goodput_ms else None,
        output_throughput=total_output / duration_s,
        total_token_throughput=(total_input + total_output) / duration_s,
        max_output_tokens_per_s=float(tokens_by_second(done, start_s, duration_s).max(initial=0.0)),
        max_concurrent_requests=_most_at_once(done),
        tokens_per_chunk=total_output / num_chunks if num_chunks else 0.0,
        statistics={name: statistic(values, percentiles) for name, values in values_s.items()},
    )


def statistic(values_s: Sequence[float], percentiles: Sequence[float]) -> Statistic:
    """Of times in seconds; percentiles are interpolated between neighbours."""
    values = np.asarray(values_s or [0.0]) * 1000
    chosen = {percentile_name(p): float(np.percentile(values, p)) for p in percentiles}
    return Statistic(float(values.mean()), float(np.median(values)), float(values.std()), chosen)


def percentile_name(percentile: float) -> str:
    """99.0 is ``99``, 99.9 stays."""
    return f"{percentile:g}"


def tpot_s(answer: Answer) -> float | None:
    """Seconds per output token after the first; None for answers of one token."""
    if answer.num_tokens < 2:
        return None
    return (answer.latency_s - answer.ttft_s) / (answer.num_tokens - 1)


def tokens_by_second(
    answers: Sequence[Answer], start_s: float, duration_s: float
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Output tokens that came in each second of the run; an answer's tokens are spread evenly over its pieces."""
    counts = np.zeros(int(duration_s) + 1)
    for answer in answers:
        if answer.num_chunks:
            times = np.cumsum([answer.first_s - start_s, *answer.chunk_gaps_s])
            seconds = np.clip(times.astype(int), 0, len(counts) - 1)
            np.add.at(counts, seconds, answer.num_tokens / answer.num_chunks)
    return counts


def _most_at_once(answers: Sequence[Answer]) -> int:
    changes = sorted(change for answer in answers for change in ((answer.start_s, 1), (answer.last_s, -1)))
    running = most = 0
    for _, change in changes:  # at equal times, ends come first
        running += change
        most = max(most, running)
    return most


def _is_good(answer: Answer, goodput_ms: Mapping[str, float]) -> bool:
    taken_s = {"ttft": answer.ttft_s, "tpot": tpot_s(answer) or 0.0, "e2el": answer.latency_s}
    return all(taken_s[name] * 1000 <= limit for name, limit in goodput_ms.items())
