"""How soon a server answers, and what it weighs.

    python benchmarks/start_up.py [--runs 5] [MODEL]

Starts ``quire serve`` on the cached model, polls /health until it is 200, asks one question, adds up the resident
memory of all its processes (proportional set size: shared pages counted once; and the plain sum), stops it. Prints the
median, minimum and maximum of the seconds to ready and to the first answer.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(url: str, process: subprocess.Popen[bytes], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with code {process.returncode}")
        try:
            if urllib.request.urlopen(f"{url}/health", timeout=1).status == 200:
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.01)
    raise SystemExit("the server did not become ready")


def ask(url: str) -> str:
    body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 16}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body | {"temperature": 0}).encode(),
        {"Content-Type": "application/json"},
    )
    answer: str = json.load(urllib.request.urlopen(request, timeout=60))["choices"][0]["message"]["content"]
    return answer


def resident(pid: int) -> tuple[float, float]:
    """(sum of RSS, sum of PSS) in MB over the process and its children."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    facts = [process.memory_full_info() for process in processes]
    return sum(f.rss for f in facts) / 1e6, sum(f.pss for f in facts) / 1e6


def run(model: str | None) -> dict[str, float | str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "quire", "serve", *([model] if model else []), "--port", str(port)]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_ready(url, process)
        ready_s = time.monotonic() - began
        rss_idle, _ = resident(process.pid)
        answer = ask(url)
        answered_s = time.monotonic() - began
        rss, pss = resident(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    return {
        "ready_s": ready_s, "answered_s": answered_s, "rss_idle_mb": rss_idle, "rss_mb": rss, "pss_mb": pss,
        "answer": answer,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    run(options.model)  # warms the file cache, and fetches the model if it is not there
    results = [run(options.model) for _ in range(options.runs)]
    print(f"{options.runs} runs, {os.cpu_count()} cores, answer: {results[0]['answer']!r}")
    for key in ("ready_s", "answered_s", "rss_idle_mb", "rss_mb", "pss_mb"):
        values = [float(result[key]) for result in results]
        print(f"{key:>12}: median {statistics.median(values):8.2f}   {min(values):.2f} - {max(values):.2f}")


if __name__ == "__main__":
    main()
