"""What a steady decode step costs the host: thread CPU time of schedule and update, with a model that does nothing.

    PYTHONPATH=src python benchmarks/host_step.py

All sequences decode; none arrives or ends; every 16 steps each crosses into a new block, spread over the steps. The
time of encoding the StepOutput for the socket is measured apart. Medians, so that a busy machine disturbs them little.
"""

import argparse
import platform
import statistics
import time

import numpy as np

from quire.core import codec
from quire.core.request import Request
from quire.core.sampling_params import SamplingParams
from quire.core.step import ModelOutput
from quire.scheduling.scheduler import Scheduler

BLOCK_SIZE = 16
PROMPT_LEN = 100


def build(num_seqs: int, num_steps: int) -> Scheduler:
    """A scheduler in which ``num_seqs`` sequences decode, with enough room for ``num_steps`` steps."""
    max_model_len = PROMPT_LEN + BLOCK_SIZE + num_steps + 8
    scheduler = Scheduler(
        num_blocks=(num_seqs + 1) * (max_model_len // BLOCK_SIZE + 3),
        block_size=BLOCK_SIZE,
        max_num_seqs=num_seqs,
        max_num_batched_tokens=num_seqs * (PROMPT_LEN + BLOCK_SIZE),
        max_model_len=max_model_len,
    )
    rng = np.random.default_rng(0)
    for handle in range(num_seqs):
        prompt = rng.integers(3, 30_000, PROMPT_LEN + handle % BLOCK_SIZE, dtype=np.int32)
        params = SamplingParams(max_tokens=num_steps + 4)
        total = prompt.size + num_steps + 4
        request = Request(
            handle=handle,
            request_id=str(handle),
            prompt=prompt,
            params=params,
            max_total_tokens=total,
            stop_token_ids=(0, 2),
        )
        scheduler.add(request)
    return scheduler


def measure(num_seqs: int, num_steps: int) -> tuple[float, float, float]:
    """Median seconds of schedule, update, and encoding a StepOutput."""
    scheduler = build(num_seqs, num_steps)
    first = scheduler.schedule()
    assert first is not None
    answer = ModelOutput(token_ids=np.full(num_seqs, 7, np.int32))
    scheduler.update(first, answer, time.monotonic())
    times: tuple[list[float], list[float], list[float]] = ([], [], [])
    for _ in range(num_steps):
        marks = [time.thread_time()]
        decision = scheduler.schedule()
        marks.append(time.thread_time())
        assert decision is not None and decision.slots.size == num_seqs
        output = scheduler.update(decision, answer, 0.0)
        marks.append(time.thread_time())
        codec.encode(output)
        marks.append(time.thread_time())
        for series, begin, end in zip(times, marks[:-1], marks[1:], strict=True):
            series.append(end - begin)
    scheduler.check()
    return tuple(statistics.median(series) for series in times)  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-steps", type=int, default=1000, help="steps measured for each size")
    parser.add_argument("--num-seqs", type=int, nargs="+", default=[1, 16, 64, 256], help="sequences that decode")
    options = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}: median microseconds")
    print(f"{'sequences':>10} {'schedule':>10} {'update':>10} {'both':>10} {'encode':>10}")
    for num_seqs in options.num_seqs:
        schedule, update, encode = (1e6 * seconds for seconds in measure(num_seqs, options.num_steps))
        print(f"{num_seqs:>10} {schedule:>10.1f} {update:>10.1f} {schedule + update:>10.1f} {encode:>10.1f}")


if __name__ == "__main__":
    main()
