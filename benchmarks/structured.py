"""What a JSON schema costs: tokens a second of 16 clients with one, and without, at the same lengths.

    python benchmarks/structured.py [--clients 16] [--requests 32] [--rounds 4] [MODEL]

Serves the model for clients each of which asks again as soon as it has its answer. The answers that the schema gives
say how long those without it are to be, request by request, so both runs make the same number of tokens of the same
prompts, chosen alike. Runs alternate; a ratio is of two that follow each other. Beside the speed stands the processor
time of all the server's processes for each token, which a busy machine disturbs less.

Two servers are measured: one that gives tokens which the schema forces all in one step, as Quire does by itself, and
one that gives them one by one (which it does where every prompt is computed in one step), so that a schema only costs
something. Each for sampled and for greedy answers. Prints medians, minima and maxima over the rounds; also how long the
first request with a schema takes, the first with another one, and one without.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import aiohttp
import psutil
from start_up import free_port, wait_until_ready

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "kind": {"enum": ["person", "place", "animal", "thing"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 5000},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "minItems": 2, "maxItems": 5},
        "summary": {"type": "string", "maxLength": 160},
    },
    "required": ["name", "kind", "age", "tags", "summary"],
    "additionalProperties": False,
}
THINGS = ("a lighthouse", "my grandmother", "a brown fox", "the city of Rome", "an old violin", "a hill", "a doctor")
SERVERS = {"forced tokens at once": [], "forced tokens one by one": ["--no-enable-chunked-prefill"]}
CHOICES = {"sampled": {"temperature": 0.7, "top_p": 0.95}, "greedy": {"temperature": 0}}

Body = dict[str, Any]


def led(schema: Body) -> Body:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}}


class Server:
    """A served model, and what its processes have used."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self._process = process
        self._url = url

    def cpu_s(self) -> float:
        face = psutil.Process(self._process.pid)
        times = [process.cpu_times() for process in (face, *face.children(recursive=True))]
        return float(sum(each.user + each.system for each in times))

    async def ask(self, bodies: Sequence[Body], clients: int) -> tuple[list[Body], float, float]:
        """The answers, seconds they took, and seconds of the server's processors."""
        waiting = iter(range(len(bodies)))
        answers: dict[int, Body] = {}

        async with aiohttp.ClientSession(self._url, raise_for_status=True) as session:

            async def client() -> None:
                for i in waiting:
                    async with session.post("/v1/chat/completions", json=bodies[i]) as response:
                        answers[i] = await response.json()

            began_s, used_s = time.perf_counter(), self.cpu_s()
            await asyncio.gather(*(client() for _ in range(clients)))
            took_s, used_s = time.perf_counter() - began_s, self.cpu_s() - used_s
        return [answers[i] for i in range(len(bodies))], took_s, used_s


@contextmanager
def served(model: str | None, flags: Sequence[str]) -> Iterator[Server]:
    port = free_port()
    command = [sys.executable, "-m", "quire", "serve", *([model] if model else []), "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--no-enable-prefix-caching", *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        yield Server(process, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(30)


def num_tokens(answers: Sequence[Body]) -> list[int]:
    return [answer["usage"]["completion_tokens"] for answer in answers]


def questions(count: int, choice: Body) -> list[Body]:
    texts = [f"Describe {THINGS[i % len(THINGS)]} as a JSON object. This is number {i}." for i in range(count)]
    return [
        {"messages": [{"role": "user", "content": text}], "seed": i, "max_tokens": 250, **choice}
        for i, text in enumerate(texts)
    ]


async def lengths_with_schema(server: Server, bodies: Sequence[Body], clients: int) -> list[int]:
    """How long the answers are; most must be whole, and right."""
    answers, _, _ = await server.ask(bodies, clients)
    ended = [answer["choices"][0] for answer in answers if answer["choices"][0]["finish_reason"] == "stop"]
    assert len(ended) > len(answers) / 2, "answers do not come to their end"
    assert all(len(json.loads(answer["message"]["content"])) == len(SCHEMA["properties"]) for answer in ended)
    return num_tokens(answers)


async def compare(server: Server, options: argparse.Namespace, choice: Body) -> None:
    bodies = questions(options.requests, choice)
    with_schema = [body | led(SCHEMA) for body in bodies]
    lengths = await lengths_with_schema(server, with_schema, options.clients)
    without = [body | {"max_tokens": n, "ignore_eos": True} for body, n in zip(bodies, lengths, strict=True)]
    await server.ask(without, options.clients)
    speeds: dict[str, list[float]] = {"with": [], "without": []}
    costs: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(options.rounds):
        for name, asked in (("with", with_schema), ("without", without)):
            answers, took_s, used_s = await server.ask(asked, options.clients)
            assert num_tokens(answers) == lengths
            speeds[name].append(sum(lengths) / took_s)
            costs[name].append(used_s * 1e3 / sum(lengths))
    print(f"    {sum(lengths)} tokens in all")
    for what, values, digits in (("tokens a second", speeds, 1), ("processor ms a token", costs, 3)):
        for name in values:
            report(f"{what} {name}", values[name], digits)
        report("ratio", ratios(values), 3)


def ratios(values: dict[str, list[float]]) -> list[float]:
    return [a / b for a, b in zip(values["with"], values["without"], strict=True)]


def report(name: str, values: Sequence[float], digits: int) -> None:
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    print(f"{name:>29}: median {middle:>8}   {low} - {high}")


async def first_requests(server: Server) -> None:
    body: Body = {"messages": [{"role": "user", "content": "Describe a fox."}], "max_tokens": 8, "temperature": 0}
    other = SCHEMA | {"required": ["name"]}
    took_ms = [(await server.ask([asked], 1))[1] * 1e3 for asked in (body, body, body | led(SCHEMA), body | led(other))]
    print(f"first request with a schema: {took_ms[2]:.0f} ms, another schema's first: {took_ms[3]:.0f} ms, ", end="")
    print(f"without: {took_ms[1]:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    print(f"{options.clients} clients, {options.requests} requests, {options.rounds} rounds")
    for name, flags in SERVERS.items():
        with served(options.model, flags) as server:
            asyncio.run(first_requests(server))
            for kind, choice in CHOICES.items():
                print(f"{name}, {kind}")
                asyncio.run(compare(server, options, choice))


if __name__ == "__main__":
    main()
