"""Plays the transcripts in traces/*.trace: what the scheduler decides, step by step, as text one can read.

    engine blocks=8 block_size=4 budget=16 ...     keywords of Scheduler; comes first
    add NAME LENGTH key=value ...                  a prompt of that many tokens of its own; or of named pieces, as in
                                                   sys:8+user:3, which are equal wherever they have the same name
    step -> a:10 b:6 | start a@0 b@0 | end c       tokens computed by each, most senior first; and what happened:
                                                   start (or again) with so many tokens from the cache; preempt; end
    step -> nothing                                there was nothing to do
    abort NAME ...    reset    blocks free=5 held=0 cached=3

Continuations of a request with n > 1 are NAME, NAME/1, NAME/2 and so on. Text after # is a comment.
"""

import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quire.core.step import FinishReason
from quire.scheduling.scheduler import Scheduler

TRACES = sorted((Path(__file__).parent / "traces").glob("*.trace"))


def piece(name: str, length: int) -> list[int]:
    """Tokens that no other name has."""
    base = zlib.crc32(name.encode()) % 1_000_000 * 1000
    return list(range(base, base + length))


def keywords(words: list[str]) -> dict[str, Any]:
    """``a=1 b=text c=True`` as a dict."""
    pairs = (word.split("=") for word in words)
    named = {"True": True, "False": False}
    return {key: int(value) if value.isdigit() else named.get(value, value) for key, value in pairs}


class Player:
    """One scheduler and fake worker, driven by lines of text."""

    def __init__(self, lab: SimpleNamespace, options: dict[str, Any]) -> None:
        self.lab = lab
        self.salts: dict[int, str] = {}
        self.names: dict[int, str] = {}
        num_blocks, block_size = options.pop("blocks"), options.pop("block_size")
        options.setdefault("max_num_seqs", 8)
        options.setdefault("max_model_len", num_blocks * block_size)
        self.scheduler = Scheduler(
            num_blocks=num_blocks, block_size=block_size, max_num_batched_tokens=options.pop("budget"), **options
        )
        self.worker = lab.FakeWorker(
            num_blocks, block_size, lambda handle: self.salts[handle], lambda mark, _: mark % 1000
        )

    def do(self, line: str) -> str:
        """Carry out a line; returns it as it should have read."""
        command, *words = line.split(" -> ")[0].split()
        match command:
            case "add":
                self.add(words[0], words[1], keywords(words[2:]))
            case "step":
                return f"step -> {self.step()}"
            case "abort":
                handles = [handle for handle, name in self.names.items() if name in words]
                assert len(self.scheduler.abort(handles)) == len(words)
            case "reset":
                self.scheduler.reset_prefix_cache()
            case "blocks":
                s = self.scheduler
                return f"blocks free={s.num_free_blocks} held={s.num_held_blocks} cached={s.num_cached_blocks}"
            case _:
                raise ValueError(f"no such command: {line}")
        return line

    def add(self, name: str, prompt: str, options: dict[str, Any]) -> None:
        pieces = [part.split(":") for part in prompt.split("+")] if ":" in prompt else [(name, prompt)]
        tokens = [token for label, length in pieces for token in piece(label, int(length))]
        handle = len(self.names)
        request = self.lab.make_request(handle, tokens, **options)
        for index in range(request.params.n):
            self.names[handle + index] = f"{name}/{index}" if index else name
            self.salts[handle + index] = request.cache_salt
        self.scheduler.add(request)

    def step(self) -> str:
        before = {sequence.handle for sequence in self.scheduler._running.order}
        decision = self.scheduler.schedule()
        if decision is None:
            return "nothing"
        handles = self.scheduler._slots.handle[decision.slots].tolist()
        rows = zip(handles, decision.counts.tolist(), strict=True)
        text = " ".join(f"{self.names[handle]}:{count}" for handle, count in rows)
        gone = before - {sequence.handle for sequence in self.scheduler._running.order}
        output = self.scheduler.update(decision, self.worker.execute(decision), 0.0)
        assert all(item.reason == FinishReason.LENGTH for item in output.finished)
        text += self.event("start", [f"{self.names[a.handle]}@{a.num_computed_tokens}" for a in decision.admitted])
        text += self.event("preempt", [self.names[handle] for handle in sorted(gone)])
        return text + self.event("end", [self.names[item.handle] for item in output.finished])

    @staticmethod
    def event(verb: str, what: list[str]) -> str:
        return f" | {verb} {' '.join(what)}" if what else ""


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_trace(path: Path, lab: SimpleNamespace) -> None:
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    expected = [" ".join(line.split()) for line in lines if line]
    first, *rest = expected
    assert first.startswith("engine ")
    player = Player(lab, keywords(first.split()[1:]))
    played = [first]
    for line in rest:
        played.append(player.do(line))
        player.scheduler.check()
    assert "\n".join(played) == "\n".join(expected)
    assert any(line.startswith("step") for line in played)


def test_there_are_traces() -> None:
    assert len(TRACES) >= 8
