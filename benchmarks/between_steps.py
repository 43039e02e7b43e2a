"""What a decode step of one stream spends outside the native kernels: Python, mostly waiting for memory.

    PYTHONPATH=src python benchmarks/between_steps.py [--model M] [--temperature T]

A step reads all weights, so that whatever Python touches between two of them has left the caches, and takes several
times as long as in a loop of its own (benchmarks/host_step.py). Offline, 128 tokens in and 128 out, as W1 of the peers'
benchmark. Of each step: its wall time, and that less the time inside of Program.run and of the native sampling. Medians
of the steps of each run; a run for each line.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from quire import LLM, SamplingParams
from quire.core.step import StepOutput
from quire.kernels.cpu.program import Program
from quire.kernels.cpu.sampling import NativeSampling

PROMPT = list(range(1000, 1128))
NUM_TOKENS = 128


class Inside:
    """Seconds spent in native calls since ``seconds`` was last set to zero."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                self.seconds += time.perf_counter() - begin

        return wrapper


def measure(llm: LLM, params: SamplingParams) -> tuple[float, float]:
    """Medians of a step's seconds, and of those outside native calls."""
    client: Any = llm._client
    step, inside = client.step, Inside()
    rows: list[tuple[float, float]] = []

    def timed() -> list[StepOutput]:
        inside.seconds = 0.0
        begin = time.perf_counter()
        outputs: list[StepOutput] = step()
        seconds = time.perf_counter() - begin
        rows.append((seconds, seconds - inside.seconds))
        return outputs

    with (
        patch.object(Program, "run", inside.timed(Program.run)),
        patch.object(NativeSampling, "draw_tokens", inside.timed(NativeSampling.draw_tokens)),
        patch.object(client, "step", timed),
    ):
        llm.generate({"prompt_token_ids": PROMPT}, params, use_tqdm=False)
    whole, outside = zip(*rows[8:], strict=True)  # the first ones compute the prompt
    return statistics.median(whole), statistics.median(outside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="as LLM takes it; without it the default model")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--num-runs", type=int, default=5)
    options = parser.parse_args()
    llm = LLM(options.model) if options.model else LLM()
    params = SamplingParams(temperature=options.temperature, top_p=0.9, seed=1, max_tokens=NUM_TOKENS, ignore_eos=True)
    measure(llm, params)  # the first run touches memory
    print(f"{platform.machine()}, Python {platform.python_version()}, temperature {options.temperature}")
    print(f"{'step ms':>10}{'outside us':>12}{'share':>8}")
    for _ in range(options.num_runs):
        whole, outside = measure(llm, params)
        print(f"{whole * 1e3:>10.2f}{outside * 1e6:>12.0f}{outside / whole:>8.1%}")


if __name__ == "__main__":
    main()
