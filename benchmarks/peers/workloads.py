"""What is asked of every engine, and what is read off the times.

Law: all engines get the same token ids in the same round, and new ones in every round, so that no prefix cache knows
them. Prompts are random ids: speed does not depend on what they mean. Every answer must have exactly the length asked
for, or the result is an error.
"""

import random
import statistics
from dataclasses import dataclass

from benchmarks.peers.driver import Driver

Tokens = list[list[int]]
Metrics = dict[str, float]

LOWEST_ID, HIGHEST_ID = 1_000, 40_000  # clear of special tokens, and in every vocabulary here


@dataclass(frozen=True)
class Metric:
    """A column of the table. ``higher_is_better`` decides which way ratios go."""

    title: str
    higher_is_better: bool = True


METRICS = {
    "w1_decode": Metric("W1 decode tok/s"),
    "w1_ttft_ms": Metric("W1 TTFT ms", False),
    "w2": Metric("W2 out tok/s"),
    "w3": Metric("W3 prompt tok/s"),
    "w4_off": Metric("W4 off out tok/s"),
    "w4_on": Metric("W4 on out tok/s"),
    "w4_primed": Metric("W4 primed out tok/s"),
    "w5": Metric("W5 out tok/s"),
    "w5_ttft_p50_ms": Metric("W5 TTFT p50 ms", False),
    "w5_ttft_p99_ms": Metric("W5 TTFT p99 ms", False),
    "w5_itl_p50_ms": Metric("W5 ITL p50 ms", False),
    "w5_itl_p99_ms": Metric("W5 ITL p99 ms", False),
    "w6": Metric("W6 decode tok/s"),
    "w6_ttft_p50_ms": Metric("W6 TTFT p50 ms", False),
}


@dataclass(frozen=True)
class Batch:
    """``num_requests`` at once, offline."""

    num_requests: int
    prompt_len: int
    output_len: int
    shared_len: int = 0


@dataclass(frozen=True)
class Clients:
    """``clients`` in a closed loop over HTTP, streaming, until ``num_requests`` are answered."""

    clients: int
    num_requests: int
    prompt_len: int
    output_len: int


OFFLINE = {
    "W1": Batch(1, 128, 128),
    "W2": Batch(64, 256, 128),
    "W3": Batch(16, 1024, 1),
    "W4": Batch(32, 800, 32, shared_len=768),
}
HTTP = {
    "W5": Clients(16, 64, 256, 128),
    "W6": Clients(1, 6, 128, 128),
}


def prompts(seed: str, count: int, length: int) -> Tokens:
    rng = random.Random(seed)
    return [[rng.randrange(LOWEST_ID, HIGHEST_ID) for _ in range(length)] for _ in range(count)]


def warm_up(name: str, driver: Driver) -> bool:
    """A small taste of the workload, untimed: what an engine does only once, it does here. Raises DriverError."""
    batch = OFFLINE[name]
    count = min(batch.num_requests, 4)
    driver.generate(prompts(f"warm {name}", count, batch.prompt_len), min(batch.output_len, 8))
    return True


def measure(name: str, driver: Driver, seed: str) -> Metrics:
    """Run one workload once. Raises DriverError."""
    batch = OFFLINE[name]
    if name == "W1":
        return _one_stream(batch, driver, seed)
    if batch.shared_len:
        return _shared_prefix(batch, driver, seed)
    seconds = driver.generate(prompts(seed, batch.num_requests, batch.prompt_len), batch.output_len).seconds
    if name == "W3":
        return {"w3": batch.num_requests * batch.prompt_len / seconds}
    return {name.lower(): batch.num_requests * batch.output_len / seconds}


def _one_stream(batch: Batch, driver: Driver, seed: str) -> Metrics:
    """The time to the first token is a one-token request's; decoding is what a long request takes beyond it."""
    first_s = statistics.median(
        driver.generate(prompts(f"{seed} first {i}", 1, batch.prompt_len), 1).seconds for i in range(3)
    )
    whole_s = driver.generate(prompts(seed, 1, batch.prompt_len), batch.output_len).seconds
    return {"w1_ttft_ms": 1e3 * first_s, "w1_decode": (batch.output_len - 1) / (whole_s - first_s)}


def _shared_prefix(batch: Batch, driver: Driver, seed: str) -> Metrics:
    """Off: nothing is shared, which is the same work as a cache that is off. On: all at once, nothing known before.

    Primed: one request for the prefix went before, untimed.
    """
    own_len = batch.prompt_len - batch.shared_len

    def shared(which: str) -> Tokens:
        (prefix,) = prompts(f"{seed} {which}", 1, batch.shared_len)
        return [prefix + own for own in prompts(f"{seed} {which} own", batch.num_requests, own_len)]

    output_tokens = batch.num_requests * batch.output_len
    off = driver.generate(prompts(f"{seed} off", batch.num_requests, batch.prompt_len), batch.output_len)
    on = driver.generate(shared("on"), batch.output_len)
    later = shared("primed")
    driver.generate([later[0][: batch.shared_len] + later[0][:1]], 1)
    primed = driver.generate(later, batch.output_len)
    return {
        "w4_off": output_tokens / off.seconds,
        "w4_on": output_tokens / on.seconds,
        "w4_primed": output_tokens / primed.seconds,
    }
