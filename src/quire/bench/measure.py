"""Sends requests when they are due and waits for all answers.

Law: what can be done before the first request is done before it (bodies are bytes already, garbage is collected), so
that this process takes little of the cores that the server may share with it; ``Run.cpu_s`` says how much it took.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from datetime import datetime

import msgspec

from quire.bench.answer import Answer
from quire.bench.client import Client


class Run(msgspec.Struct, kw_only=True):
    """All answers, in the order in which the requests were due."""

    answers: list[Answer]
    began_at: datetime
    start_s: float
    """When the first request was due, in seconds of ``time.perf_counter``."""
    duration_s: float
    cpu_s: float
    """Time this process spent computing."""


async def measure(
    client: Client,
    bodies: Sequence[bytes],
    starts_s: Sequence[float],
    *,
    max_concurrency: int | None = None,
    request_id_prefix: str | None = None,
    on_answer: Callable[[Answer], None] = lambda answer: None,
) -> Run:
    """Send ``bodies[i]`` at ``starts_s[i]`` after now, with at most ``max_concurrency`` under way."""
    gate: AbstractAsyncContextManager[None] = (
        nullcontext() if max_concurrency is None else asyncio.Semaphore(max_concurrency)
    )

    async def send(index: int, queued_s: float) -> Answer:
        request_id = None if request_id_prefix is None else f"{request_id_prefix}{index}"
        async with gate:
            answer = await client.stream(bodies[index], queued_s=queued_s, request_id=request_id)
        on_answer(answer)
        return answer

    with _garbage_frozen():
        began_at = datetime.now()
        cpu_s, start_s = time.process_time(), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            tasks = []
            for index, due_s in enumerate(starts_s):
                wait_s = start_s + due_s - time.perf_counter()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                tasks.append(group.create_task(send(index, time.perf_counter())))
        end_s = time.perf_counter()
        cpu_s = time.process_time() - cpu_s
    return Run(
        answers=[task.result() for task in tasks],
        began_at=began_at,
        start_s=start_s,
        duration_s=end_s - start_s,
        cpu_s=cpu_s,
    )


@contextmanager
def _garbage_frozen() -> Iterator[None]:
    """What lives already is not looked at again by the garbage collector, whose pauses would count as the server's."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
