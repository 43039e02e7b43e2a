"""What a streamed token costs the HTTP process.

    python benchmarks/api_cost.py [--clients 16] [--rounds 5] [--num-threads N] [--beside COMMAND] [MODEL]

Serves the model for streaming chats of ``quire bench serve``, short answers and long ones in turn, and reads the
processor time of the HTTP process before and after: the difference is what its share of the tokens costs, and what is
left is the cost of a request. The engine computes for real meanwhile, so its work disturbs the caches as it does in
use; --num-threads 1 leaves the HTTP process one of two cores to itself, as a machine with more would. Prints medians,
minima and maxima over the rounds; also the idle server's processor time, all processes together.

--beside is another OpenAI-compatible server's command, with {port} where its port belongs: it is measured too, in turns
with Quire, round by round, so that a ratio is of the same minutes. Of both only the process is counted that the command
starts, which has to be the one that speaks HTTP, and not its children. A server that is not asked sleeps (SIGSTOP).
"""

import argparse
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import psutil
from start_up import free_port, wait_until_ready

SHORT, LONG = 16, 272
IDLE_S = 10.0


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


class Server:
    """One server and what its HTTP process has used."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, clients: int) -> None:
        self._face = psutil.Process(process.pid)
        self._everyone = [self._face, *self._face.children(recursive=True)]
        self._port, self._clients = port, clients
        self.token_us: list[float] = []
        self.request_us: list[float] = []
        self._load(SHORT)  # imports, compiles and caches
        self._each("suspend")

    def _each(self, order: str) -> None:
        for process in self._everyone:
            getattr(process, order)()

    def _load(self, output_len: int) -> float:
        """Seconds of its HTTP process."""
        command = [
            *(sys.executable, "-m", "quire", "bench", "serve", "--port", str(self._port), "--backend", "openai-chat"),
            *("--num-prompts", str(2 * self._clients), "--max-concurrency", str(self._clients)),
            *("--random-input-len", "64", "--random-output-len", str(output_len), "--ignore-eos", "--seed", "1"),
        ]
        before = cpu_s(self._face)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return cpu_s(self._face) - before

    def measure(self) -> None:
        """One round."""
        self._each("resume")
        num_requests, short_s, long_s = 2 * self._clients, self._load(SHORT), self._load(LONG)
        self._each("suspend")
        token_s = (long_s - short_s) / (num_requests * (LONG - SHORT))
        self.token_us.append(token_s * 1e6)
        self.request_us.append((short_s / num_requests - SHORT * token_s) * 1e6)

    def idle(self) -> float:
        """The share of a core that all processes take without a request."""
        self._each("resume")
        before, began = sum(map(cpu_s, self._everyone)), time.monotonic()
        time.sleep(IDLE_S)
        return (sum(map(cpu_s, self._everyone)) - before) / (time.monotonic() - began)


@contextmanager
def served(command: Sequence[str], port: int, clients: int) -> Iterator[Server]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    everyone: list[psutil.Process] = []
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process, 300)
        face = psutil.Process(process.pid)
        everyone = [face, *face.children(recursive=True)]
        yield Server(process, port, clients)
    finally:
        for one in everyone:
            with suppress(psutil.NoSuchProcess):
                one.resume()
        process.terminate()
        process.wait(30)


def report(name: str, values: list[float]) -> None:
    print(f"{name:>24}: median {statistics.median(values):8.2f}   {min(values):.2f} - {max(values):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num-threads", type=int)
    parser.add_argument("--beside", metavar="COMMAND")
    options = parser.parse_args()
    ports = free_port(), free_port()
    ours = [
        sys.executable,
        "-m",
        "quire",
        "serve",
        *([options.model] if options.model else []),
        "--port",
        f"{ports[0]}",
    ]
    ours += ["--num-threads", str(options.num_threads)] if options.num_threads else []
    with ExitStack() as stack:
        server = stack.enter_context(served(ours, ports[0], options.clients))
        other = None
        if options.beside:
            theirs = shlex.split(options.beside.replace("{port}", str(ports[1])))
            other = stack.enter_context(served(theirs, ports[1], options.clients))
        for _ in range(options.rounds):
            server.measure()
            if other is not None:
                other.measure()
        idle = server.idle()
    print(f"{options.clients} clients, {options.rounds} rounds of {2 * options.clients} requests each")
    report("us a streamed token", server.token_us)
    report("us a request", server.request_us)
    print(f"{'idle, % of a core':>24}: {100 * idle:15.2f}")
    if other is not None:
        report("the other's us a token", other.token_us)
        report("the other's us a request", other.request_us)
        report("ratio a token", [b / a for a, b in zip(server.token_us, other.token_us, strict=True)])


if __name__ == "__main__":
    main()
