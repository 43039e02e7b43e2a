"""``quire bench serve``: measures a server by asking it as many clients would.

Every step of a measurement, in its order: who is there, what to ask, is it ready, warm-up, the run, the numbers.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from quire.bench.answer import Answer
from quire.bench.arrivals import Arrivals, Plan
from quire.bench.client import Client, ServedModel
from quire.bench.datasets.sample import Dataset, Sample
from quire.bench.datasets.writer import TextWriter, Tokens
from quire.bench.measure import Run, measure
from quire.bench.metrics import Summary, summarize
from quire.bench.report import Heading
from quire.bench.target import Target
from quire.bench.tokens import load_tokenizer
from quire.core.errors import ConfigError, QuireError

_MANY_TOKENS_PER_CHUNK = 1.1
_READY_PROMPT = Sample("Hello", 0, 1)
_READY_PAUSE_S = 0.5


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What a measurement is to do."""

    target: Target
    dataset: Dataset
    arrivals: Arrivals = Arrivals()
    model: str | None = None
    """Where the tokenizer comes from, and the name in requests; None: the server's first model."""
    served_model_name: str | None = None
    """The name in requests, if it is another."""
    tokenizer: str | None = None
    skip_tokenizer: bool = False
    num_prompts: int = 1000
    num_warmups: int = 0
    max_concurrency: int | None = None
    ready_timeout_s: float = 0.0
    seed: int = 0
    fields: dict[str, Any] = {}
    """Added to every request."""
    ignore_eos: bool = False
    request_id_prefix: str | None = None
    uses_profiler: bool = False
    percentiles: Sequence[float] = (90.0, 99.0)
    goodput_ms: dict[str, float] = {}


class Outcome(msgspec.Struct, kw_only=True):
    """What a measurement found. ``notes`` are lines for the one who reads the numbers."""

    run: Run
    plan: Plan
    summary: Summary
    model: str
    tokenizer: str | None
    notes: list[str]

    def heading(self, work: Work, backend: str, label: str | None, metadata: dict[str, str]) -> Heading:
        """What was measured, for the report."""
        return Heading(
            date=datetime.now().strftime("%Y%m%d-%H%M%S"),
            backend=backend,
            label=label,
            model_id=self.model,
            tokenizer_id=self.tokenizer,
            num_prompts=work.num_prompts,
            metadata=metadata,
            arrivals=work.arrivals,
            max_concurrency=work.max_concurrency,
        )


def run_serve(work: Work, on_answer: Callable[[Answer], None] = lambda answer: None) -> Outcome:
    """Measure; ``on_answer`` is called for each answer of the run. Raises QuireError if there is nothing to measure."""
    loop_factory = None
    if sys.platform != "win32":
        import uvloop

        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(_measure(work, on_answer))


async def _measure(work: Work, on_answer: Callable[[Answer], None]) -> Outcome:
    async with Client(work.target) as client:
        model, name, tokenizer_name = await _meet(client, work)
        tokenizer = None if work.skip_tokenizer else _tokenizer(tokenizer_name, work)
        samples = _samples(work, tokenizer)
        fields = ({"ignore_eos": True} if work.ignore_eos or work.dataset.ignores_eos else {}) | work.fields
        bodies = [work.target.body(name, sample, fields) for sample in samples]
        bodies, warmups = bodies[: work.num_prompts], bodies[work.num_prompts :]
        plan = work.arrivals.plan(work.num_prompts, work.seed)
        await _warm_up(client, warmups, work.max_concurrency)
        if work.uses_profiler:
            await client.profile("start")
        run = await measure(
            client,
            bodies,
            plan.starts_s,
            max_concurrency=work.max_concurrency,
            request_id_prefix=work.request_id_prefix,
            on_answer=on_answer,
        )
        if work.uses_profiler:
            await client.profile("stop")
    notes = _count_tokens(run.answers, samples, tokenizer, work.target.is_chat)
    summary = summarize(
        run.answers,
        start_s=run.start_s,
        duration_s=run.duration_s,
        percentiles=work.percentiles,
        goodput_ms=work.goodput_ms,
    )
    if summary.tokens_per_chunk > _MANY_TOKENS_PER_CHUNK:
        notes.append(
            f"the server sent {summary.tokens_per_chunk:.2f} tokens a piece: ITL is the time between pieces, TPOT that "
            "between tokens."
        )
    used = None if work.skip_tokenizer or tokenizer is None else tokenizer_name
    return Outcome(run=run, plan=plan, summary=summary, model=model, tokenizer=used, notes=notes)


async def _meet(client: Client, work: Work) -> tuple[str, str, str]:
    """The model, its name in requests, and where its tokenizer comes from; waits for the server if asked to."""
    deadline = time.monotonic() + work.ready_timeout_s
    while True:
        try:
            names = _names(work, await client.models())
            if work.ready_timeout_s:
                answer = await client.stream(work.target.body(names[1], _READY_PROMPT, {}))
                if not answer.is_success:
                    raise QuireError(f"{work.target.url} is not ready: {answer.error}")
            return names
        except QuireError:
            if time.monotonic() + _READY_PAUSE_S > deadline:
                raise
        await asyncio.sleep(_READY_PAUSE_S)


def _names(work: Work, served: list[ServedModel] | None) -> tuple[str, str, str]:
    if work.model is not None:
        return work.model, work.served_model_name or work.model, work.tokenizer or work.model
    if not served:
        raise ConfigError(f"{work.target.models_url} does not list any models: give --model.")
    first = served[0]
    return first.id, work.served_model_name or first.id, work.tokenizer or first.root or first.id


def _tokenizer(name: str, work: Work) -> Tokens | None:
    try:
        return load_tokenizer(name)
    except QuireError as error:
        if work.tokenizer is None and not work.dataset.needs_tokenizer:
            return None
        raise ConfigError(f"no tokenizer to make prompts with: {error.message} Name one with --tokenizer.") from None


def _samples(work: Work, tokenizer: Tokens | None) -> Sequence[Sample]:
    if tokenizer is None and work.dataset.needs_tokenizer:
        raise ConfigError("--skip-tokenizer-init: this dataset makes prompts of a given length, and needs a tokenizer.")
    return work.dataset.samples(work.num_prompts + work.num_warmups, TextWriter(tokenizer, work.seed))


async def _warm_up(client: Client, bodies: Sequence[bytes], max_concurrency: int | None) -> None:
    """Requests that do not count, with prompts of their own. Raises QuireError if one fails."""
    run = await measure(client, bodies, [0.0] * len(bodies), max_concurrency=max_concurrency)
    for answer in run.answers:
        if not answer.is_success:
            raise QuireError(f"a warm-up request failed: {answer.error}")


def _count_tokens(
    answers: Sequence[Answer], samples: Sequence[Sample], tokenizer: Tokens | None, is_chat: bool
) -> list[str]:
    """Fill in counts that the server did not give; what the reader should know about them."""
    notes = []
    done = [(answer, sample) for answer, sample in zip(answers, samples, strict=False) if answer.is_success]
    uncounted = [answer for answer, _ in done if answer.num_output_tokens is None]
    if uncounted:
        how = "the tokenizer's count of their text" if tokenizer is not None else "one for each piece of text"
        notes.append(f"the server did not count the tokens of {len(uncounted)} answers: taken is {how}.")
    for answer in uncounted:
        if tokenizer is not None:
            answer.num_output_tokens = len(tokenizer.encode(answer.text, False))
    others = sum(
        answer.num_prompt_tokens != sample.num_prompt_tokens
        for answer, sample in done
        if answer.num_prompt_tokens is not None and sample.num_prompt_tokens
    )
    if others and not is_chat:
        notes.append(f"the server counted other tokens in {others} prompts than the tokenizer: is it the right one?")
    for answer, sample in zip(answers, samples, strict=False):
        if answer.num_prompt_tokens is None:
            answer.num_prompt_tokens = sample.num_prompt_tokens
    return notes
