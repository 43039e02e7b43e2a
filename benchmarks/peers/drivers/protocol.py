"""How the harness speaks with the process that holds one engine: one JSON object a line, in and out.

Law: a driver only generates. What is asked, how often, and what is made of the times is the harness's, so that it is
the same for all. Standard library only, because it runs in every engine's own environment.

The first line a driver writes is {"ready": true, "version": ..., "settings": ...}; then it answers each line it reads:

    {"do": "generate", "prompts": [[ids]], "output_len": n}        -> {"seconds": s, "tokens": [[ids]]}
    {"do": "clients", "prompts": .., "output_len": n, "clients": c} -> {"seconds": s, "first_s": [..], "gaps_s": [..]}

or {"error": message}. Lines end when standard input does.
"""

import argparse
import json
import os
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Any, Protocol

Tokens = list[list[int]]


class Engine(Protocol):
    """One loaded model. ``version`` and ``settings`` are for the report."""

    version: str
    settings: str

    def generate(self, prompts: Tokens, output_len: int) -> Tokens:
        """Continue all prompts greedily by exactly ``output_len`` tokens, whatever they are; in the prompts' order."""


@dataclass(frozen=True)
class Options:
    """What every driver is told on its command line. ``kv_bytes`` is the KV cache it may have."""

    model: str
    threads: int
    dtype: str
    kv_bytes: int
    max_len: int


def options() -> Options:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--kv-bytes", type=int, required=True)
    parser.add_argument("--max-len", type=int, required=True)
    return Options(**vars(parser.parse_args()))


def claim_stdout() -> Any:
    """The pipe to the harness; whatever libraries print goes to standard error from now on."""
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return pipe


def serve(engine: Engine, pipe: Any) -> None:
    """Answer until standard input ends."""
    _say(pipe, {"ready": True, "version": engine.version, "settings": engine.settings})
    for line in sys.stdin:
        try:
            _say(pipe, answer(engine, json.loads(line)))
        except Exception as error:  # any engine, any library: the harness reports it and goes on with the others
            traceback.print_exc()
            _say(pipe, {"error": f"{type(error).__name__}: {error}"[:2000]})


def answer(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    began = time.perf_counter()
    if request["do"] == "clients":
        first_s, gaps_s = engine.clients(  # type: ignore[attr-defined]
            request["prompts"], request["output_len"], request["clients"]
        )
        return {"seconds": time.perf_counter() - began, "first_s": first_s, "gaps_s": gaps_s}
    tokens = engine.generate(request["prompts"], request["output_len"])
    seconds = time.perf_counter() - began
    # A tool that starts anew for each request has a clock of its own.
    own_clock = getattr(engine, "reported_s", None)
    return {"seconds": own_clock() if own_clock else seconds, "tokens": tokens}


def _say(pipe: Any, message: dict[str, Any]) -> None:
    pipe.write(json.dumps(message) + "\n")
    pipe.flush()
