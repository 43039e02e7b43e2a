"""Whole models with made-up weights, through the worker and the engine that serve: steps, prompts, serving.

A decode step at a batch and a context is what the engine launches for sequences that have so many tokens; their KV is
random numbers, since only the shape counts. Steps are launched as the engine launches them, one ahead of the host.
"""

import gc
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from benchmarks.gpu.devices import beside, wait
from benchmarks.gpu.idle import idle_share
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.roofline import Limits, Model
from benchmarks.gpu.serving import Workload, serve
from benchmarks.gpu.shapes import MODELS, tiny, write

from quire.core.config import EngineConfig
from quire.core.sampling_params import SamplingParams
from quire.core.step import Admission, SchedulerOutput
from quire.engine.build import build_engine
from quire.engine.engine import Engine

BATCHES, CONTEXTS = (1, 8, 64, 256, 32), (1024, 4096, 16384)
PROMPTS = (1024, 4096, 8192)
BLOCK_SIZE = 32
DECODE_SHARE = 0.5
"""Of a part's time: then serving comes."""
_MOST_STEPS, _FEWEST_STEPS, _WARM_STEPS = 60, 12, 4
_STEPS_S = 0.4
_NOTHING = np.empty((0, 3), np.int64)


class Bench:
    """One model's engine, on one device."""

    def __init__(self, name: str, device: torch.device, limits: Limits, journal: Journal, *, is_quick: bool) -> None:
        """``is_quick``: two layers and few sizes, so that kernels get compiled and no more."""
        self.is_tiny = device.type != "cuda"
        config = tiny(MODELS[name]) if self.is_tiny else MODELS[name]
        if is_quick:
            config = config | {"num_hidden_layers": 2}
        self.name, self.device, self.limits, self.journal = name, device, limits, journal
        self.model = Model.of(config)
        self.max_seqs = 8 if self.is_tiny else 512
        self.max_model_len = 512 if self.is_tiny else 16384 + 256
        self.block_size = BLOCK_SIZE
        self.num_blocks = 0
        self.engine = self._build(config, is_quick)

    def _build(self, config: dict[str, Any], is_quick: bool) -> Engine:
        settings: dict[str, Any] = dict(
            load_format="dummy",
            device=self.device.type,
            dtype="bfloat16",
            max_num_seqs=self.max_seqs,
            max_model_len=self.max_model_len,
            max_num_batched_tokens=64 if self.is_tiny else 8192,
            block_size=self.block_size,
            enable_prefix_caching=False,
            gpu_memory_utilization=0.9,
            cpu_kernels="torch",
        )
        if is_quick or self.is_tiny:
            settings["num_gpu_blocks_override"] = 600
        with TemporaryDirectory() as folder:
            path = str(write(Path(folder), config))
            for is_eager in (False, True):
                began = time.monotonic()
                try:
                    with beside():
                        engine, info = build_engine(EngineConfig.of(model=path, enforce_eager=is_eager, **settings))
                    break
                except Exception as error:
                    self._built(is_eager, began, note=f"{type(error).__name__}: {str(error)[:300]}")
                    if is_eager:
                        raise
                gc.collect()  # what was built so far
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
        self.num_blocks = info.num_blocks
        self._built(is_eager, began, kv_tokens=info.num_blocks * self.block_size)
        # Of a runner's own, this alone: what is stored, so that it is not zeros.
        for pages in (one for pair in engine.executor._runner.kv.layers for one in pair):  # type: ignore[attr-defined]
            pages.normal_()
        return engine

    def _built(self, is_eager: bool, began: float, **columns: Any) -> None:
        seconds = time.monotonic() - began
        self.journal.row("engines", model=self.name, eager=is_eager, seconds=seconds, **columns)

    def decode(self, batch: int, context: int, *, looks_at_idle: bool = False) -> None:
        """Time steps of ``batch`` sequences from ``context`` tokens on."""
        longest = context + _WARM_STEPS + _MOST_STEPS + _FEWEST_STEPS + 3 * 2
        blocks_each = -(-longest // self.block_size)
        if batch > self.max_seqs or batch * blocks_each > self.num_blocks or longest > self.max_model_len:
            self.journal.row("decode", model=self.name, batch=batch, context=context, note="does not fit")
            return
        steps = Steps(self.engine, batch, context, blocks_each)
        seconds, _ = steps.run(_WARM_STEPS)
        count = max(_FEWEST_STEPS, min(_MOST_STEPS, int(_STEPS_S / seconds)))
        seconds, launch = steps.run(count)
        floor = self.model.decode(batch, context, self.limits)
        idle = idle_share(lambda: steps.run(_FEWEST_STEPS), self.device) if looks_at_idle else None
        steps.end()
        self.journal.row(
            "decode",
            model=self.name,
            batch=batch,
            context=context,
            ms=1e3 * seconds,
            floor_ms=1e3 * floor.total,
            share=floor.total / seconds,
            tokens_per_s=batch / seconds,
            launch_us=1e6 * launch,
            idle=idle,
        )

    def prompt(self, tokens: int) -> None:
        """Time a step with one prompt of so many."""
        if tokens > self.max_model_len - 2 or -(-tokens // self.block_size) > self.num_blocks:
            self.journal.row("prompts", model=self.name, tokens=tokens, note="does not fit")
            return
        times = []
        for _ in range(4):
            steps = Steps(self.engine, 1, 0, -(-tokens // self.block_size) + 1, first=tokens)
            wait(self.device)
            begin = time.perf_counter()
            self.engine.executor.launch(steps.next()).result()
            times.append(time.perf_counter() - begin)
            steps.end()
        seconds, floor = statistics.median(times[1:]), self.model.prefill(tokens, self.limits).total
        self.journal.row(
            "prompts",
            model=self.name,
            tokens=tokens,
            ms=1e3 * seconds,
            floor_ms=1e3 * floor,
            share=floor / seconds,
            tokens_per_s=tokens / seconds,
        )

    def serve(self, workload: Workload, seconds: float) -> None:
        """Run a workload through the whole engine, for at most so long."""
        found = serve(self.engine, workload, self.model, self.limits, self.device, seconds)
        self.journal.row("serving", model=self.name, workload=workload.name, **found)


class Steps:
    """Sequences that decode, one token a step, as the scheduler would decide it; none arrives or ends."""

    def __init__(self, engine: Engine, batch: int, context: int, blocks_each: int, first: int = 1) -> None:
        """``first``: how many tokens the first step computes of each."""
        self._executor, self._batch, self._done = engine.executor, batch, context
        self._count = first
        random = np.random.default_rng(0)
        self._admitted = [
            Admission(
                slot=slot,
                handle=slot,
                tokens=random.integers(3, 500, context + first, dtype=np.int32),
                prompt_len=context + first,
                params=SamplingParams(temperature=0),
                seed=slot,
                stop_token_ids=(),
                bad_word_ids=(),
                num_computed_tokens=context,
            )
            for slot in range(batch)
        ]
        slots, indexes = np.divmod(np.arange(batch * blocks_each), blocks_each)
        order = random.permutation(batch * blocks_each)
        self._slots = np.arange(batch)
        self._blocks = np.stack((slots, indexes, order), 1)

    def next(self) -> SchedulerOutput:
        """The next step's decision."""
        decision = SchedulerOutput(
            released=np.empty(0, np.int64),
            admitted=self._admitted,
            block_updates=self._blocks,
            block_copies=_NOTHING,
            slots=self._slots,
            starts=np.full(self._batch, self._done),
            counts=np.full(self._batch, self._count),
            samples=np.ones(self._batch, bool),
            is_decode=self._count == 1,
        )
        self._admitted, self._blocks = [], _NOTHING
        self._done += self._count
        self._count = 1
        return decision

    def run(self, count: int) -> tuple[float, float]:
        """Seconds of a step, and of the host in its launch: the median."""
        launches, tickets = [], [self._executor.launch(self.next())]
        tickets.append(self._executor.launch(self.next()))
        tickets.pop(0).result()
        begin = time.perf_counter()
        for _ in range(count):
            decision, before = self.next(), time.perf_counter()
            tickets.append(self._executor.launch(decision))
            launches.append(time.perf_counter() - before)
            tickets.pop(0).result()
        seconds = (time.perf_counter() - begin) / count
        tickets.pop(0).result()
        return seconds, statistics.median(launches)

    def end(self) -> None:
        """Sequences leave; a step of one other follows, since a step is never empty."""
        nobody = SchedulerOutput(
            released=np.arange(self._batch),
            admitted=[],
            block_updates=np.array([[0, 0, 0]]),
            block_copies=_NOTHING,
            slots=np.zeros(1, np.int64),
            starts=np.zeros(1, np.int64),
            counts=np.ones(1, np.int64),
            samples=np.ones(1, bool),
            is_decode=True,
        )
        self._executor.launch(nobody).result()


def run(name: str, device: torch.device, limits: Limits, seconds: float, journal: Journal) -> None:
    """All there is to measure of one model, as far as ``seconds`` go; the rest is said."""
    ends = time.monotonic() + seconds
    bench = Bench(name, device, limits, journal, is_quick=False)
    contexts = (64, 128) if bench.is_tiny else CONTEXTS
    late = []
    decodes_end = time.monotonic() + DECODE_SHARE * (ends - time.monotonic())
    for tokens in (64,) if bench.is_tiny else PROMPTS:
        bench.prompt(tokens)
    for place, context in enumerate(contexts):
        for batch in (1, 4) if bench.is_tiny else BATCHES:
            if time.monotonic() > decodes_end:
                late.append(f"batch {batch} at {context}")
            else:
                bench.decode(batch, context, looks_at_idle=place == 0 and batch in (1, 64, 256))
    for workload in Workload.of(bench.is_tiny):
        left = ends - time.monotonic()
        if left < workload.least_s:
            late.append(workload.name)
        else:
            bench.serve(workload, left)
    assert not late, f"no time was left for {', '.join(late)}"


def compile_kernels(name: str, device: torch.device, limits: Limits) -> None:
    """Run what ``run`` will, with two layers and nothing kept, so that no compiler runs later."""
    bench = Bench(name, device, limits, Journal(), is_quick=True)
    for tokens in (64,) if bench.is_tiny else PROMPTS:
        bench.prompt(tokens)
    for batch in (1, 2) if bench.is_tiny else (1, 2, 8, 16):
        bench.decode(batch, 64 if bench.is_tiny else 500)
    bench.serve(Workload("a few", 4, 100, 4, 0.0), 20.0)
    assert all("note" not in row for row in bench.journal.rows), str(bench.journal.rows)[:500]
