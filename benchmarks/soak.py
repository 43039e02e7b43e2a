"""Many streaming clients, some of which hang up: nothing may fail, leak or be miscounted.

    python benchmarks/soak.py [--url http://127.0.0.1:8000] [--clients 32] [--seconds 60] [--words 120]

Each client asks over and over, each time with a prompt and a length of its own; three in ten times it hangs up at a
random moment, before the first token or later. At the end the server is left alone for two seconds, in which its engine
verifies its KV accounting, and its metrics are held against what the clients counted. Exits with 1 on any difference.
"""

import argparse
import asyncio
import json
import random
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Tally:
    """What all clients saw together."""

    asked: int = 0
    completed: int = 0
    hung_up: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    errors: list[str] = field(default_factory=list)


async def one_request(host: str, port: int, max_words: int, rng: random.Random, tally: Tally) -> None:
    """Ask once, over a connection of its own; read to the end, or hang up."""
    patience = rng.choice((0, 1, 3, 8)) if rng.random() < 0.3 else None
    words = " ".join(
        rng.choice(("sea", "stone", "light", "river", "night", "song")) for _ in range(rng.randint(1, max_words))
    )
    body = json.dumps({
        "messages": [{"role": "user", "content": f"Tell me of {words}."}],
        "max_tokens": rng.randint(4, 48), "stream": True, "stream_options": {"include_usage": True},
        "temperature": rng.choice((0, 0.8)),
    }).encode()  # fmt: skip
    reader, writer = await asyncio.open_connection(host, port)
    try:
        tally.asked += 1
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        if patience == 0:
            await asyncio.sleep(rng.random() * 0.2)
            tally.hung_up += 1
            return
        await read_stream(reader, patience, tally)
    finally:
        writer.close()


async def read_stream(reader: asyncio.StreamReader, patience: int | None, tally: Tally) -> None:
    status = await reader.readline()
    if b" 200 " not in status:
        tally.errors.append(f"{status!r}: {(await reader.read())[:300]!r}")
        return
    events, usage = 0, None
    async for line in reader:
        if not line.startswith(b"data: "):
            continue
        if line.strip() == b"data: [DONE]":
            if usage is None:
                tally.errors.append("a stream ended without usage")
                return
            tally.completed += 1
            tally.prompt_tokens += usage["prompt_tokens"]
            tally.completion_tokens += usage["completion_tokens"]
            return
        chunk = json.loads(line[6:])
        if "error" in chunk:
            tally.errors.append(str(chunk["error"]))
            return
        usage = chunk.get("usage") or usage
        events += 1
        if patience is not None and events > patience:
            tally.hung_up += 1
            return
    tally.errors.append("a stream ended without [DONE]")


async def client(host: str, port: int, max_words: int, seed: int, until: float, tally: Tally) -> None:
    rng = random.Random(seed)
    while time.monotonic() < until:
        try:
            await one_request(host, port, max_words, rng, tally)
        except OSError as error:
            tally.errors.append(repr(error))


def metrics(url: str) -> dict[str, float]:
    """Every sample of /metrics, summed over labels other than the finish reason."""
    found: dict[str, float] = {}
    for line in urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode().splitlines():
        if line.startswith("vllm:"):
            name, value = line.rsplit(" ", 1)
            base = name.split("{")[0]
            found[base] = found.get(base, 0.0) + float(value)
            if 'finished_reason="' in name:
                reason = name.split('finished_reason="')[1].split('"')[0]
                found[f"{base}:{reason}"] = float(value)
    return found


def differences(tally: Tally, before: dict[str, float], after: dict[str, float]) -> list[str]:
    """Where server and clients disagree."""

    def grew(name: str) -> int:
        return round(after.get(name, 0) - before.get(name, 0))

    success = "vllm:request_success_total"
    ended = grew(f"{success}:stop") + grew(f"{success}:length")
    total = ended + grew(f"{success}:abort")
    found = [f"client saw: {error}" for error in tally.errors[:10]]
    # A client may hang up when its answer was complete, and before its request was read.
    if not tally.completed <= ended <= tally.completed + tally.hung_up:
        found.append(f"server ended {ended}, clients read {tally.completed} to the end and hung up {tally.hung_up}")
    if not tally.completed <= total <= tally.asked:
        found.append(f"server counted {total} requests, clients asked {tally.asked}")
    if grew("vllm:generation_tokens_total") < tally.completion_tokens:
        found.append(f"server counted {grew('vllm:generation_tokens_total')} tokens, clients {tally.completion_tokens}")
    for gauge in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"):
        if after.get(gauge) != 0:
            found.append(f"{gauge} is {after.get(gauge)} with nobody there")
    return found


async def soak(url: str, clients: int, seconds: float, max_words: int) -> tuple[Tally, list[str]]:
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    tally, before = Tally(), metrics(url)
    until = time.monotonic() + seconds
    await asyncio.gather(
        *(client(parts.hostname, parts.port, max_words, seed, until, tally) for seed in range(clients))
    )
    await asyncio.sleep(2.5)  # the engine verifies its accounting after a second of rest
    health = urllib.request.urlopen(f"{url}/health", timeout=10).status
    found = differences(tally, before, metrics(url))
    return tally, found if health == 200 else [*found, f"/health is {health}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--words", type=int, default=120, help="longest prompt, in words")
    options = parser.parse_args()
    tally, found = asyncio.run(soak(options.url, options.clients, options.seconds, options.words))
    print(
        f"{tally.asked} requests: {tally.completed} read to the end, {tally.hung_up} hung up, {len(tally.errors)} "
        f"errors; {tally.completion_tokens} tokens, {tally.completion_tokens / options.seconds:.0f} a second"
    )
    for difference in found:
        print(f"DIFFERENCE: {difference}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
