"""Requests through the whole engine, as the offline face runs it: throughput, latency, the host's time in a step.

The floor is that of the very steps that were run, summed: so a run that is cut short is held against what it did.
"""

import statistics
import time
from collections import defaultdict
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from benchmarks.gpu.roofline import Limits, Model

from quire.core.messages import Abort, Add
from quire.core.request import Request
from quire.core.sampling_params import SamplingParams
from quire.core.step import ModelOutput, SchedulerOutput
from quire.engine.engine import Engine
from quire.engine.executor.executor import Executor, Part, Ticket


class Workload(NamedTuple):
    """Requests that come all at once; all of the same lengths."""

    name: str
    num_requests: int
    prompt: int
    output: int
    least_s: float
    """Not begun with less time than this."""

    @classmethod
    def of(cls, is_tiny: bool) -> "list[Workload]":
        if is_tiny:
            return [cls("one alone", 1, 20, 8, 0.0), PEER._replace(num_requests=4, prompt=20, output=8)]
        return [cls("one alone", 1, 1000, 100, 2.0), PEER, cls("1000 / 1000", 512, 1000, 1000, 15.0)]


PEER = Workload("beside transformers", 64, 256, 128, 4.0)
"""What the peer is given too."""


class Watched:
    """An executor whose steps are counted, and whose waits are taken out of the host's time."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.waited_s = 0.0
        self._steps: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def floor_s(self, model: Model, limits: Limits) -> float:
        """Of all steps so far."""
        return sum(model.step(starts, counts, int(samples.sum()), limits) for starts, counts, samples in self._steps)

    def launch(self, decision: SchedulerOutput) -> Ticket:
        """See Executor.launch."""
        self._steps.append((decision.starts, decision.counts, decision.samples))
        return _Waiting(self._executor.launch(decision), self)

    def release(self, part: Part) -> None:
        """See Executor.release."""
        self._executor.release(part)

    def restore(self, part: Part) -> None:
        """See Executor.restore."""
        self._executor.restore(part)


class _Waiting(NamedTuple):
    ticket: Ticket
    watch: Watched

    @property
    def is_done(self) -> bool:
        return self.ticket.is_done

    def result(self) -> ModelOutput:
        begin = time.perf_counter()
        output = self.ticket.result()
        self.watch.waited_s += time.perf_counter() - begin
        return output


def serve(
    engine: Engine, workload: Workload, model: Model, limits: Limits, device: torch.device, seconds: float
) -> dict[str, Any]:
    """What came of it, in at most about ``seconds``."""
    executor, random = engine.executor, np.random.default_rng(0)
    watch = engine.executor = Watched(executor)  # type: ignore[assignment]
    begin = time.perf_counter()
    for handle in range(workload.num_requests):
        engine.handle(Add(_request(handle, workload, random, model.vocab)))
    arrivals: defaultdict[int, list[float]] = defaultdict(list)
    host, num_tokens, is_whole = [], 0, True
    while engine.has_work:
        before, waited = time.perf_counter(), watch.waited_s
        output = engine.step()
        now = time.perf_counter()
        host.append(now - before - (watch.waited_s - waited))
        if output is not None:
            num_tokens += len(output.handles)
            for handle in output.handles:
                arrivals[handle].append(now)
        if now - begin > seconds:
            engine.handle(Abort(list(range(workload.num_requests))))
            is_whole = False
    wall, floor_s = time.perf_counter() - begin, watch.floor_s(model, limits)
    engine.executor = executor
    gaps = [late - early for times in arrivals.values() for early, late in pairwise(times)]
    firsts = [times[0] - begin for times in arrivals.values()]
    return {
        "requests": workload.num_requests,
        "lengths": f"{workload.prompt} / {workload.output}",
        "seconds": wall,
        "tokens_per_s": num_tokens / wall,
        "floor_s": floor_s,
        "share": floor_s / wall,
        "first_token_ms": 1e3 * statistics.median(firsts) if firsts else None,
        "between_tokens_ms": 1e3 * statistics.median(gaps) if gaps else None,
        "host_us": 1e6 * statistics.median(host),
        "steps": len(host),
        "whole": is_whole,
    }


def _request(handle: int, workload: Workload, random: np.random.Generator, vocab: int) -> Request:
    return Request(
        handle=handle,
        request_id=str(handle),
        prompt=random.integers(3, vocab, workload.prompt, dtype=np.int32),
        params=SamplingParams(temperature=0, max_tokens=workload.output, ignore_eos=True),
        max_total_tokens=workload.prompt + workload.output,
    )
