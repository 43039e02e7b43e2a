"""``quire bench throughput`` and ``quire bench latency``: an engine in this process, without a server.

Labels and JSON fields are those of vLLM's tools. Every batch has prompts of its own, so that the prefix cache finds
nothing that it would not find in real work.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from quire.bench.datasets.sample import Dataset, Sample
from quire.bench.datasets.synthetic import RandomText
from quire.bench.datasets.writer import TextWriter
from quire.core.sampling_params import SamplingParams
from quire.llm import LLM

LATENCY_PERCENTILES = (10, 25, 50, 75, 90, 99)


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """How much one engine does when it is given everything at once. Times are in seconds."""

    elapsed_s: float
    num_requests: int
    total_input: int
    total_output: int

    def lines(self) -> list[str]:
        """As printed."""
        rates = [count / self.elapsed_s for count in (self.num_requests, self._total, self.total_output)]
        return [
            "Throughput: {:.2f} requests/s, {:.2f} total tokens/s, {:.2f} output tokens/s".format(*rates),
            f"Total num prompt tokens:  {self.total_input}",
            f"Total num output tokens:  {self.total_output}",
        ]

    def fields(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "elapsed_time": self.elapsed_s,
            "num_requests": self.num_requests,
            "total_num_tokens": self._total,
            "requests_per_second": self.num_requests / self.elapsed_s,
            "tokens_per_second": self._total / self.elapsed_s,
            "total_input_tokens": self.total_input,
            "total_output_tokens": self.total_output,
            "output_tokens_per_second": self.total_output / self.elapsed_s,
        }

    @property
    def _total(self) -> int:
        return self.total_input + self.total_output


class Latency(msgspec.Struct, frozen=True):
    """How long one batch takes, in seconds, one entry an iteration."""

    latencies_s: list[float]

    def lines(self) -> list[str]:
        """As printed."""
        lines = [f"Avg latency: {np.mean(self.latencies_s)} seconds"]
        return lines + [f"{p}% percentile latency: {value} seconds" for p, value in self._percentiles().items()]

    def fields(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "avg_latency": float(np.mean(self.latencies_s)),
            "latencies": self.latencies_s,
            "percentiles": {str(p): value for p, value in self._percentiles().items()},
        }

    def _percentiles(self) -> dict[int, float]:
        return {p: float(np.percentile(self.latencies_s, p)) for p in LATENCY_PERCENTILES}


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """How the engine is to continue prompts; answers always have their full length."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0

    def params(self, num_tokens: int) -> SamplingParams:
        return SamplingParams(
            n=self.n, temperature=self.temperature, top_p=self.top_p, ignore_eos=True, max_tokens=num_tokens
        )


def run_throughput(
    settings: Mapping[str, Any],
    dataset: Dataset,
    *,
    num_prompts: int,
    num_warmups: int = 0,
    generation: Generation,
    use_tqdm: bool = True,
) -> Throughput:
    """Give an engine of these settings all prompts at once. Tokenizing them is part of the time."""
    llm = LLM(**settings)
    writer = TextWriter(llm.get_tokenizer(), settings.get("seed") or 0)
    samples = dataset.samples(num_prompts + num_warmups, writer)
    samples, warmups = samples[:num_prompts], samples[num_prompts:]
    if warmups:
        _generate(llm, warmups, generation, False)
    start_s = time.perf_counter()
    total_input, total_output = _generate(llm, samples, generation, use_tqdm)
    elapsed_s = time.perf_counter() - start_s
    return Throughput(
        elapsed_s=elapsed_s, num_requests=len(samples), total_input=total_input, total_output=total_output
    )


def run_latency(
    settings: Mapping[str, Any],
    *,
    input_len: int = 32,
    output_len: int = 128,
    batch_size: int = 8,
    num_iters_warmup: int = 10,
    num_iters: int = 30,
    generation: Generation,
    use_tqdm: bool = True,
) -> Latency:
    """Time one batch after the other, the first ``num_iters_warmup`` for nothing. Prompts are tokenized already."""
    from tqdm import tqdm

    llm = LLM(**settings)
    tokenizer = llm.get_tokenizer()
    writer = TextWriter(tokenizer, settings.get("seed") or 0)
    dataset = RandomText(input_len=input_len, output_len=output_len)
    params = generation.params(output_len)
    latencies_s = []
    num_all = num_iters_warmup + num_iters
    for _ in tqdm(range(num_all), desc="batches", disable=None if use_tqdm else True):
        prompts = [tokenizer.encode(sample.prompt) for sample in dataset.samples(batch_size, writer)]
        start_s = time.perf_counter()
        llm.generate(prompts, params, use_tqdm=False)
        latencies_s.append(time.perf_counter() - start_s)
    return Latency(latencies_s[num_iters_warmup:])


def _generate(llm: LLM, samples: Sequence[Sample], generation: Generation, use_tqdm: bool) -> tuple[int, int]:
    """Run samples; their input and output tokens."""
    params = [generation.params(sample.num_output_tokens) for sample in samples]
    outputs = llm.generate([sample.prompt for sample in samples], params, use_tqdm=use_tqdm)
    num_input = sum(len(output.prompt_token_ids) for output in outputs)
    return num_input, sum(len(choice.token_ids) for output in outputs for choice in output.outputs)
