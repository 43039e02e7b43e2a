"""A worker that computes nothing but proves everything.

It applies decisions as the contract says, to a KV store in which each place holds a fingerprint of all tokens up to
it and of the cache salt. Before it answers, it checks that every place a row reads holds the fingerprint it must. So
wrong sharing, wrong copies, overwritten blocks and lost updates all show, at the step that they harm.
"""

import os
from collections.abc import Callable, Iterable
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from quire.core.request import Request
from quire.core.sampling_params import SamplingParams
from quire.core.step import FinishReason, ModelOutput, SchedulerOutput

STEPS = settings(
    max_examples=int(os.environ.get("STATE_MACHINE_EXAMPLES", "200")),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
"""For state machines; set the variable to look longer."""

VOCAB = 13


def fingerprints(salt: str, tokens: Iterable[int]) -> list[int]:
    """One number for each position, of all tokens up to it."""
    value, values = hash((1, *map(ord, salt))), []
    for token in tokens:
        value = hash((value, token))
        values.append(value)
    return values


def next_token(fingerprint: int, seed: int) -> int:
    """The model: what follows is a function of all tokens so far and the seed. Rarely it fails, with -1."""
    mixed = hash((fingerprint, seed))
    return -1 if mixed % 83 == 0 else mixed % VOCAB


def forced_run(fingerprint: int) -> list[int]:
    """The grammar: what must follow a token that was sampled there; mostly nothing, sometimes many blocks."""
    mixed = hash((fingerprint, "run"))
    length = (1, 2, 5, 14)[mixed // 7 % 4] if mixed % 7 == 0 else 0
    return [hash((fingerprint, i)) % VOCAB for i in range(length)]


def is_conclusion(fingerprint: int) -> bool:
    """Whether the grammar ends with the token, or the run behind it."""
    return hash((fingerprint, "end")) % 31 == 0


def solo_run(request: Request, index: int, has_runs: bool = False) -> tuple[list[int], FinishReason]:
    """What continuation ``index`` must give, whatever else happens."""
    tokens, output = request.prompt.tolist(), []
    while True:
        token = next_token(fingerprints("", tokens)[-1], request.seed + index)
        if token < 0:
            return output, FinishReason.ERROR
        mark = fingerprints("", [*tokens, token])[-1]
        run = [token, *forced_run(mark)] if has_runs else [token]
        for place, token in enumerate(run, start=1):
            output.append(token)
            tokens.append(token)
            if token in request.stop_token_ids and len(output) >= request.params.min_tokens:
                return output, FinishReason.STOP
            if has_runs and place == len(run) and is_conclusion(mark):
                return output, FinishReason.STOP
            if len(tokens) >= request.max_total_tokens:
                return output, FinishReason.LENGTH


class _Copy:
    """A sequence as the worker knows it."""

    def __init__(self, salt: str, tokens: list[int], seed: int) -> None:
        self.salt, self.tokens, self.seed = salt, tokens, seed
        self.is_broken = False  # its logits were not finite, so that nothing sensible can come any more
        self.marks = fingerprints(salt, tokens)
        self.table: dict[int, int] = {}

    def append(self, token: int) -> None:
        self.tokens.append(token)
        self.marks = fingerprints(self.salt, self.tokens)


class FakeWorker:
    """Applies decisions to slots and a KV store of fingerprints.

    ``salt_of`` maps a handle to its cache salt; ``model`` a fingerprint and a seed to the next token.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        salt_of: Callable[[int], str],
        model: Callable[[int, int], int] = next_token,
        has_runs: bool = False,
    ) -> None:
        self.model = model
        self.has_runs = has_runs
        self.kv = np.full((num_blocks, block_size), -1, object)
        self.block_size = block_size
        self.salt_of = salt_of
        self.slots: dict[int, _Copy] = {}

    def execute(self, decision: SchedulerOutput) -> ModelOutput:
        self._apply(decision)
        assert np.unique(decision.slots).size == decision.slots.size, "a slot has two rows"
        written: set[tuple[int, int]] = set()
        for slot, start, count, _ in self._rows(decision):
            if self.slots[slot].is_broken:
                continue
            assert count >= 1 and start + count <= len(self.slots[slot].tokens)
            for position in range(start, start + count):
                place = self._place(slot, position)
                assert place not in written, "two sequences write to one place"
                written.add(place)
                self.kv[place] = self.slots[slot].marks[position]
        tokens: list[int] = []
        broken: list[tuple[int, int]] = []
        forced: dict[int, np.ndarray] = {}
        concluded: set[int] = set()
        for slot, start, count, samples in self._rows(decision):
            sequence = self.slots[slot]
            if sequence.is_broken:  # a step that was decided before that was known
                tokens += [-1] if samples else []
                continue
            for position in range(start + count):
                assert self.kv[self._place(slot, position)] == sequence.marks[position], "wrong KV is read"
            assert samples == (start + count == len(sequence.tokens))
            if samples:
                mark = fingerprints("", sequence.tokens)[-1]
                tokens.append(self.model(mark, sequence.seed))
                if tokens[-1] >= 0:
                    sequence.append(tokens[-1])
                    if self.has_runs:
                        self._force(sequence, len(tokens) - 1, forced, concluded)
                else:
                    sequence.is_broken = True
                    broken += [self._place(slot, position) for position in range(start, start + count)]
        for place in broken:
            self.kv[place] = -2  # not finite: nobody may ever read it
        return ModelOutput(token_ids=np.array(tokens, np.int32), forced=forced, concluded=frozenset(concluded))

    @staticmethod
    def _rows(decision: SchedulerOutput) -> list[tuple[int, int, int, bool]]:
        columns = (decision.slots, decision.starts, decision.counts, decision.samples)
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def _force(self, sequence: _Copy, row: int, forced: dict[int, np.ndarray], concluded: set[int]) -> None:
        mark = fingerprints("", sequence.tokens)[-1]
        if is_conclusion(mark):
            concluded.add(row)
        run = forced_run(mark)
        if run:
            forced[row] = np.array(run, np.int32)
            for token in run:
                sequence.append(token)

    def spoil(self, decision: SchedulerOutput, has_computed: bool) -> None:
        """Fail in the middle of a step: tables are changed, and perhaps rubbish was computed."""
        self._apply(decision)
        for slot, start, count, _ in self._rows(decision) if has_computed else ():
            for position in range(start, start + count):
                self.kv[self._place(slot, position)] = -2

    def _apply(self, decision: SchedulerOutput) -> None:
        for slot in decision.released.tolist():
            del self.slots[slot]
        for admission in decision.admitted:
            assert admission.slot not in self.slots, "a slot is taken twice"
            tokens = admission.tokens.tolist()
            assert admission.num_computed_tokens < len(tokens)
            self.slots[admission.slot] = _Copy(self.salt_of(admission.handle), tokens, admission.seed)
        changes = [tuple(change) for change in decision.block_updates.tolist()]
        assert len({change[:2] for change in changes}) == len(changes), "a place in a block table changes twice"
        for slot, index, block in changes:
            self.slots[slot].table[index] = block
        copies = decision.block_copies.tolist()
        assert not {c[0] for c in copies} & {c[1] for c in copies}, "a copy's source is another's target"
        for source, target, num_tokens in copies:
            assert 0 < num_tokens < self.block_size
            self.kv[target, :num_tokens] = self.kv[source, :num_tokens]

    def _place(self, slot: int, position: int) -> tuple[int, int]:
        index, offset = divmod(position, self.block_size)
        return self.slots[slot].table[index], offset


def make_request(
    handle: int,
    prompt: list[int],
    *,
    max_tokens: int = 4,
    n: int = 1,
    stop: tuple[int, ...] = (),
    min_tokens: int = 0,
    priority: int = 0,
    salt: str = "",
    prompt_logprobs: int | None = None,
) -> Request:
    return Request(
        handle=handle,
        request_id=f"request-{handle}",
        prompt=np.array(prompt, np.int32),
        params=SamplingParams(n=n, max_tokens=max_tokens, min_tokens=min_tokens, prompt_logprobs=prompt_logprobs),
        max_total_tokens=len(prompt) + max_tokens,
        stop_token_ids=stop,
        seed=handle,
        priority=priority,
        cache_salt=salt,
    )


@pytest.fixture(scope="session")
def lab() -> SimpleNamespace:
    """All of this, for the tests of this folder."""
    return SimpleNamespace(
        FakeWorker=FakeWorker, VOCAB=VOCAB, STEPS=STEPS, make_request=make_request, solo_run=solo_run
    )
