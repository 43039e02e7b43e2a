"""A steady decode step costs the host a few calls, as many for a hundred sequences as for two."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType

import pytest

HOST_STEP = Path(__file__).parents[2] / "benchmarks" / "host_step.py"
FEW, MANY = 2, 100
STEPS = 40
MOST_CALLS, MOST_CALLS_THAT_GROW = 140, 175
"""Of Python and C functions in Engine.step, which schedules and launches one step and answers the one before."""
MOST_LAUNCH_CALLS = 60


@pytest.fixture(scope="module")
def host_step() -> ModuleType:
    """The benchmark, whose engine runs everything but the model."""
    spec = importlib.util.spec_from_file_location("host_step", HOST_STEP)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def count_calls(work: Callable[[], object]) -> int:
    calls = 0

    def watch(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def test_a_steady_step_costs_the_same_for_few_and_many(host_step: ModuleType) -> None:
    counts = {}
    for num_seqs in (FEW, MANY):
        engine, _ = host_step.build_engine(num_seqs, STEPS, host_step.BLOCK_SIZE)
        engine.step()
        counts[num_seqs] = [count_calls(engine.step) for _ in range(host_step.BLOCK_SIZE)]
    # In a few steps some lack a block, and those that soon will get theirs too; the others change no block table.
    assert (min(counts[FEW]), max(counts[FEW])) == (min(counts[MANY]), max(counts[MANY]))
    assert max(counts[MANY]) < MOST_CALLS_THAT_GROW
    assert sum(count < MOST_CALLS for count in counts[MANY]) >= host_step.BLOCK_SIZE - 3


def test_of_which_the_runner_has_its_share(host_step: ModuleType) -> None:
    engine, executor = host_step.build_engine(MANY, STEPS)
    engine.step()
    decision = engine.scheduler.schedule()
    assert count_calls(lambda: executor.launch(decision)) < MOST_LAUNCH_CALLS
