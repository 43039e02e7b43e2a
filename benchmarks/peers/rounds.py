"""The alternation: all engines in turn, workload by workload, round by round, so that a slow minute hits all alike.

Law: only one engine is awake at a time. An engine that fails is noted and left out of what it failed at; the others go
on. What the journal already has is not measured again.
"""

import json
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks.peers import serving, workloads
from benchmarks.peers.driver import Driver, DriverError
from benchmarks.peers.engines import Contender, Launcher
from benchmarks.peers.journal import Journal
from benchmarks.peers.machine import Limits
from benchmarks.peers.models import Model, Models, PreparationFailed

Result = TypeVar("Result")

BENCH_TOOLS = ("llama-bench",)
BENCH_TOOL_WORKLOADS = ("W1", "W3")


@dataclass
class Match:
    """One model with one kind of weights, and everybody who runs it."""

    model: Model
    weights: str
    contenders: list[Contender]
    names: list[str]
    rounds: int
    journal: Journal
    models: Models
    launcher: Launcher
    limits: Limits

    def prepare(self) -> None:
        """Make the models that are missing; who has none is left out."""
        self.contenders = [one for one in self.contenders if self._prepared(one)]

    def run(self) -> None:
        """Measure what the journal does not have yet."""
        self.prepare()
        offline = [name for name in self.names if name in workloads.OFFLINE]
        http = [name for name in self.names if name in workloads.HTTP]
        if offline and not self._complete(offline):
            self._offline(offline)
        if http and not self._complete(http):
            self._http(http)

    def _offline(self, names: list[str]) -> None:
        with ExitStack() as stack:
            drivers = self._start(stack)
            self._accuracy(drivers)
            for name in names:
                for contender, driver in list(drivers.items()):
                    if self._takes_part(contender, name):
                        self._try(contender, f"warm-up of {name}", partial(workloads.warm_up, name, driver))
            for number in range(1, self.rounds + 1):
                self._measure_limits(number)
                for name in names:
                    seed = f"{self.model.name} {name} {number}"
                    for contender, driver in drivers.items():
                        if self._takes_part(contender, name):
                            self._measure(contender, name, number, partial(workloads.measure, name, driver, seed))
            for contender, driver in drivers.items():
                self._weigh("engine", contender, driver.peak_bytes(), driver.start_s, driver)

    def _http(self, names: list[str]) -> None:
        with ExitStack() as stack:
            faces: dict[Contender, serving.Server | serving.InProcess] = {}
            for contender in self.contenders:
                if contender.engine in BENCH_TOOLS or self.journal.has("failure", what="start", **self._who(contender)):
                    continue
                path = self.models.path(self.model, contender.form)
                tokenizer = self.models.path(self.model, "hf-bf16") if self.model.name != "gemma3" else path
                start = partial(serving.face, self.launcher, contender, path, tokenizer, self._log)
                served = self._try(contender, "server", start)
                if served is not None:
                    stack.callback(served.end)
                    faces[contender] = served
                    self._say(contender, f"serves after {served.start_s:.1f} s")
            for contender, served in list(faces.items()):
                if self._try(contender, "server", partial(served.run, workloads.Clients(2, 4, 64, 16), "0")) is None:
                    del faces[contender]
            for number in range(1, self.rounds + 1):
                self._measure_limits(number)
                for name in names:
                    for contender, served in faces.items():
                        self._measure(contender, name, number, partial(serving.measure, name, served, number))
            for contender, served in faces.items():
                self._weigh("server", contender, served.peak_bytes(), served.start_s, None)

    def _start(self, stack: ExitStack) -> dict[Contender, Driver]:
        drivers = {}
        for contender in self.contenders:
            path = self.models.path(self.model, contender.form)
            start = partial(self.launcher.driver, contender, path, self._log(contender, "offline"))
            driver = self._try(contender, "start", start)
            if driver is not None:
                stack.callback(driver.end)
                drivers[contender] = driver
                self._say(contender, f"ready after {driver.start_s:.1f} s")
                self._weigh("engine", contender, driver.peak_bytes(), driver.start_s, driver)
        return drivers

    def _accuracy(self, drivers: dict[Contender, Driver]) -> None:
        """How many of the reference's greedy answers each engine gives, token by token."""
        if not self.model.has_reference:
            return
        reference = json.loads(self.models.path(self.model, "reference").read_text())
        for contender, driver in drivers.items():
            if contender.engine in BENCH_TOOLS or self.journal.has("accuracy", **self._who(contender)):
                continue
            answer = self._try(contender, "accuracy", partial(driver.generate, reference["prompts"], 32))
            if answer is not None:
                pairs = list(zip(answer.tokens, reference["answers"], strict=True))
                same = sum(tokens[: len(truth)] == truth for tokens, truth in pairs)
                agreed = statistics.mean(_common(tokens, truth) / len(truth) for tokens, truth in pairs)
                self.journal.add("accuracy", **self._who(contender), same=same, of=len(pairs), agreed=agreed)
                self._say(contender, f"{same} of {len(pairs)} answers as the reference, {agreed:.0%} of the tokens")

    def _measure(self, contender: Contender, name: str, number: int, run: Callable[[], workloads.Metrics]) -> None:
        if self.journal.has("result", workload=name, round=number, **self._who(contender)):
            return
        if self.journal.has("failure", what=name, **self._who(contender)):
            return
        metrics = self._try(contender, name, run)
        if metrics is not None:
            self.journal.add("result", **self._who(contender), workload=name, round=number, metrics=metrics)
            shown = ", ".join(f"{key} {value:.1f}" for key, value in metrics.items())
            self._say(contender, f"round {number}: {shown}")

    def _measure_limits(self, number: int) -> None:
        where = {"model": self.model.name, "weights": self.weights, "round": number}
        self.journal.add("limits", **where, **self.limits.measure())

    def _weigh(self, kind: str, contender: Contender, peak: int, start_s: float, driver: Driver | None) -> None:
        about = {"version": driver.version, "settings": driver.settings} if driver else {}
        self.journal.add(kind, **self._who(contender), start_s=start_s, peak_gb=peak / 1e9, **about)

    def _prepared(self, contender: Contender) -> bool:
        return self._try(contender, "start", partial(self.models.path, self.model, contender.form)) is not None

    def _try(self, contender: Contender, what: str, run: Callable[[], Result]) -> Result | None:
        try:
            return run()
        except (DriverError, PreparationFailed, serving.ServerError) as error:
            self.journal.add("failure", **self._who(contender), what=what, why=str(error))
            self._say(contender, f"{what} failed: {error}")
            return None

    def _takes_part(self, contender: Contender, name: str) -> bool:
        return contender.engine not in BENCH_TOOLS or name in BENCH_TOOL_WORKLOADS

    def _complete(self, names: list[str]) -> bool:
        """Whether every contender has every round of every workload, or has failed at it."""
        return all(
            self.journal.has("result", workload=name, round=number, **self._who(contender))
            or self.journal.has("failure", what=name, **self._who(contender))
            or self.journal.has("failure", what="start", **self._who(contender))
            for contender in self.contenders
            for name in names
            for number in range(1, self.rounds + 1)
            if self._takes_part(contender, name)
        )

    def _who(self, contender: Contender) -> dict[str, str]:
        return {"model": self.model.name, "weights": self.weights, "contender": contender.title}

    def _log(self, contender: Contender, face: str) -> Path:
        return self.journal.folder / f"{self.model.name}-{contender.title.replace(' ', '-')}-{face}.log"

    def _say(self, contender: Contender, what: str) -> None:
        print(f"{self.model.name} {self.weights} {contender.title}: {what}", file=sys.stderr, flush=True)


def _common(tokens: list[int], truth: list[int]) -> int:
    """How many tokens agree before the first that does not."""
    return next((i for i, (one, other) in enumerate(zip(tokens, truth, strict=False)) if one != other), len(truth))
