"""What a streamed token costs the HTTP process.

    python benchmarks/api_cost.py [--clients 16] [--rounds 5] [--num-threads N] [MODEL]

Serves the model for streaming chats of ``quire bench serve``, short answers and long ones in turn, and reads the
processor time of the HTTP process before and after: the difference is what its share of the tokens costs, and what is
left is the cost of a request. The engine computes for real meanwhile, so its work disturbs the caches as it does in
use; --num-threads 1 leaves the HTTP process one of two cores to itself, as a machine with more would. Prints medians,
minima and maxima over the rounds; also the idle server's processor time, all processes together.
"""

import argparse
import statistics
import subprocess
import sys
import time

import psutil
from start_up import free_port, wait_until_ready

SHORT, LONG = 16, 272
IDLE_S = 10.0


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def load(port: int, clients: int, output_len: int) -> None:
    command = [
        *(sys.executable, "-m", "quire", "bench", "serve", "--port", str(port), "--backend", "openai-chat"),
        *("--num-prompts", str(2 * clients), "--max-concurrency", str(clients), "--random-input-len", "64"),
        *("--random-output-len", str(output_len), "--ignore-eos", "--seed", "1"),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num-threads", type=int)
    options = parser.parse_args()
    port = free_port()
    command = [sys.executable, "-m", "quire", "serve", *([options.model] if options.model else []), "--port", str(port)]
    command += ["--num-threads", str(options.num_threads)] if options.num_threads else []
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", server)
        face = psutil.Process(server.pid)
        everyone = [face, *face.children(recursive=True)]
        load(port, options.clients, SHORT)  # imports, compiles and caches
        token_us, request_us = [], []
        for _ in range(options.rounds):
            spent = {}
            for output_len in (SHORT, LONG):
                before = cpu_s(face)
                load(port, options.clients, output_len)
                spent[output_len] = cpu_s(face) - before
            num_requests = 2 * options.clients
            token_s = (spent[LONG] - spent[SHORT]) / (num_requests * (LONG - SHORT))
            token_us.append(token_s * 1e6)
            request_us.append((spent[SHORT] / num_requests - SHORT * token_s) * 1e6)
        before, began = sum(map(cpu_s, everyone)), time.monotonic()
        time.sleep(IDLE_S)
        idle = (sum(map(cpu_s, everyone)) - before) / (time.monotonic() - began)
    finally:
        server.terminate()
        server.wait(30)
    print(f"{options.clients} clients, {options.rounds} rounds of {2 * options.clients} requests each")
    for name, values in (("us a streamed token", token_us), ("us a request", request_us)):
        print(f"{name:>20}: median {statistics.median(values):8.1f}   {min(values):.1f} - {max(values):.1f}")
    print(f"{'idle, % of a core':>20}: {100 * idle:15.2f}")


if __name__ == "__main__":
    main()
