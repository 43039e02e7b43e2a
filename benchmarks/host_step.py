"""What a steady decode step costs the host: thread CPU time of all that is done for it, with a model that does nothing.

    PYTHONPATH=src python benchmarks/host_step.py

All sequences decode; none arrives or ends; every 16 steps each crosses into a new block, at different steps. What is
measured: the scheduler alone (schedule, update), the runner's launch of a step, and the engine's whole step, which has
all three in it. The runner stands before a device: tokens and block tables are its tensors, decode steps are replayed,
and of each step's tokens the host learns when the next is launched. The device is this CPU, whose part, copies
of a few kilobytes, is counted too; the model itself is not. The time of encoding the StepOutput for the socket is
measured apart. Means over 16 steps, since few of them give out blocks, for many sequences at once; and of those the
median, so that a busy machine disturbs it little.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from quire.core import codec
from quire.core.request import Request
from quire.core.sampling_params import SamplingParams
from quire.core.step import ModelOutput, SchedulerOutput
from quire.decoding.device import DeviceSampler
from quire.decoding.device_reference import TorchDeviceSampling
from quire.decoding.sampler import Sampler
from quire.engine.engine import Engine
from quire.engine.executor.executor import Ticket
from quire.engine.executor.inline import InlineExecutor
from quire.engine.worker.chooser import Chooser
from quire.engine.worker.graphed import GraphedForward
from quire.engine.worker.model_runner import ModelRunner
from quire.engine.worker.recorded_steps import Parts
from quire.engine.worker.recorder import Replay
from quire.engine.worker.sizes import Sizes
from quire.engine.worker.slot_tokens import DeviceTokens
from quire.model.attention.paged import PagedAttention
from quire.model.kv import KVStorage
from quire.scheduling.scheduler import Scheduler

BLOCK_SIZE = 16
VOCAB_SIZE = 32_000
TOKEN = 7
DEVICE = torch.device("cpu")
NOTHING = torch.empty(0)


def room(num_steps: int, context: int) -> int:
    """The greatest length of a sequence that decodes so many steps."""
    return context + BLOCK_SIZE + num_steps + 8


def build(num_seqs: int, num_steps: int, context: int) -> Scheduler:
    """A scheduler in which ``num_seqs`` sequences will decode, with enough room for ``num_steps`` steps."""
    max_model_len = room(num_steps, context)
    scheduler = Scheduler(
        num_blocks=(num_seqs + 1) * (max_model_len // BLOCK_SIZE + 3),
        block_size=BLOCK_SIZE,
        max_num_seqs=num_seqs,
        max_num_batched_tokens=num_seqs * (context + BLOCK_SIZE),
        max_model_len=max_model_len,
    )
    rng = np.random.default_rng(0)
    for handle in range(num_seqs):
        prompt = rng.integers(8, 30_000, context + handle % BLOCK_SIZE, dtype=np.int32)
        request = Request(
            handle=handle,
            request_id=str(handle),
            prompt=prompt,
            params=SamplingParams(temperature=0, max_tokens=num_steps + 4),
            max_total_tokens=prompt.size + num_steps + 4,
            stop_token_ids=(0, 2),
        )
        scheduler.add(request)
    return scheduler


class NoModel:
    """Answers TOKEN to everyone; stands for the model, and for what computes prompts."""

    def __init__(self, num_seqs: int) -> None:
        self._ids = torch.full((num_seqs,), TOKEN, dtype=torch.int32)

    def run(self, batch: Any) -> None:
        """See Forward.run."""

    def likeliest(self, rows: Any) -> Tensor:
        """See Forward.likeliest."""
        return self._ids[: len(rows)]


class NoRecorder:
    """Records nothing, and replays nothing."""

    def record(self, work: Callable[[], Tensor]) -> Replay:
        """See Recorder.record."""
        assert isinstance(work, partial)
        is_choice = len(work.args) > 1
        return Replay(lambda: None, torch.full((work.args[0],), TOKEN, dtype=torch.int32) if is_choice else NOTHING)


def make_runner(num_seqs: int, max_model_len: int) -> ModelRunner:
    """One that does for each step all that the host does, and computes nothing."""
    model: Any = NoModel(num_seqs)
    kv = KVStorage([], torch.float32, DEVICE)
    tokens = DeviceTokens(num_seqs, max_model_len, -(-max_model_len // BLOCK_SIZE), 0, DEVICE)
    attention = PagedAttention(BLOCK_SIZE, DEVICE)
    steps = Parts(model, kv, attention, tokens, Sizes(BLOCK_SIZE, num_seqs, num_seqs, max_model_len, torch.float32))
    forward = GraphedForward(model, steps, NoRecorder())
    beside = DeviceSampler(num_seqs, VOCAB_SIZE, DEVICE, TorchDeviceSampling())
    chooser = Chooser(Sampler(num_seqs, VOCAB_SIZE, DEVICE), beside, DEVICE)
    return ModelRunner(forward, kv, chooser, tokens, BLOCK_SIZE)


class Timed(InlineExecutor):
    """Notes what each launch takes, in seconds of this thread."""

    def __init__(self, runner: ModelRunner) -> None:
        super().__init__(runner, lambda: runner)
        self.seconds: list[float] = []

    def launch(self, decision: SchedulerOutput) -> Ticket:
        """See Executor.launch."""
        begin = time.thread_time()
        ticket = super().launch(decision)
        self.seconds.append(time.thread_time() - begin)
        return ticket


def build_engine(num_seqs: int, num_steps: int, context: int = 100) -> tuple[Engine, Timed]:
    """An engine whose sequences have computed their prompts, and decode for ``num_steps`` steps."""
    executor = Timed(make_runner(num_seqs, room(num_steps, context)))
    engine = Engine(build(num_seqs, num_steps, context), executor)
    engine.step()
    return engine, executor


class Seconds(NamedTuple):
    """Of a step: see ``typical``."""

    schedule: float
    update: float
    encode: float
    launch: float
    step: float


def measure(num_seqs: int, num_steps: int, context: int) -> Seconds:
    return Seconds(*measure_scheduler(num_seqs, num_steps, context), *measure_engine(num_seqs, num_steps, context))


def measure_scheduler(num_seqs: int, num_steps: int, context: int) -> tuple[float, float, float]:
    """Typical seconds of schedule, update, and encoding a StepOutput."""
    scheduler = build(num_seqs, num_steps, context)
    first = scheduler.schedule()
    assert first is not None
    answer = ModelOutput(token_ids=np.full(num_seqs, TOKEN, np.int32))
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
    return typical(times[0]), typical(times[1]), typical(times[2])


def measure_engine(num_seqs: int, num_steps: int, context: int) -> tuple[float, float]:
    """Typical seconds of the runner's launch, and of the engine's step."""
    engine, executor = build_engine(num_seqs, num_steps, context)
    executor.seconds.clear()
    steps = []
    for _ in range(num_steps):
        begin = time.thread_time()
        output = engine.step()
        steps.append(time.thread_time() - begin)
        assert output is not None and len(output.handles) == num_seqs
    return typical(executor.seconds), typical(steps)


def typical(seconds: Sequence[float]) -> float:
    """The median over the blocks that a sequence fills, of the mean over the steps in which it does."""
    spans = (seconds[first : first + BLOCK_SIZE] for first in range(0, len(seconds) - BLOCK_SIZE + 1, BLOCK_SIZE))
    return statistics.median(map(statistics.fmean, spans))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-steps", type=int, default=1000, help="steps measured for each size")
    parser.add_argument("--num-seqs", type=int, nargs="+", default=[1, 16, 64, 256, 1024], help="sequences that decode")
    parser.add_argument("--context", type=int, default=100, help="tokens that each has at the start")
    options = parser.parse_args()
    torch.set_num_threads(1)
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}"
    print(f"{platform.machine()}, {versions}: microseconds of a step, context {options.context}")
    print("".join(f"{name:>10}" for name in ("sequences", "schedule", "update", "encode", "launch", "step")))
    for num_seqs in options.num_seqs:
        found = measure(num_seqs, options.num_steps, options.context)
        print(f"{num_seqs:>10}" + "".join(f"{1e6 * seconds:>10.1f}" for seconds in found))


if __name__ == "__main__":
    main()
