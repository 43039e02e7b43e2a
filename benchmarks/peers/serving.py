"""The HTTP workloads: an engine's server under `quire bench serve`, the one load generator for all.

Law: while a server is not being measured it sleeps (SIGSTOP). The load generator runs on the same cores as the server,
as it does for everybody.
"""

import http.client
import json
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.driver import Driver, Family
from benchmarks.peers.engines import Contender, Launcher
from benchmarks.peers.models import ROOT
from benchmarks.peers.workloads import HTTP, Clients, Metrics, prompts

READY_S = 600
"""vLLM compiles for minutes on a busy machine."""


class ServerError(Exception):
    """A server did not come up or a run against it failed. The message says where its log is."""


class Server:
    """One server, asleep but for the time of a run."""

    def __init__(
        self, launcher: Launcher, contender: Contender, command: list[str], port: int, tokenizer: Path, log: Path
    ) -> None:
        self._port, self._log, self._tokenizer = port, log, tokenizer
        self._python = launcher.quire_python
        self._result = log.with_suffix(".json")
        began = time.perf_counter()
        self._family = Family(command, launcher.environment(contender.engine), ROOT, log, piped=False)
        try:
            self._wait(began + READY_S)
        except ServerError:
            self._family.end()
            raise
        self.start_s = time.perf_counter() - began
        self._family.pause()

    def run(self, spec: Clients, seed: str) -> dict[str, Any]:
        """The load generator's report, with vLLM's field names. Raises ServerError."""
        self._result.unlink(missing_ok=True)
        command = [
            str(self._python), "-m", "quire", "bench", "serve", "--backend", "openai", "--model", "model",
            "--tokenizer", str(self._tokenizer), "--base-url", f"http://127.0.0.1:{self._port}",
            "--dataset-name", "random", "--random-input-len", str(spec.prompt_len),
            "--random-output-len", str(spec.output_len), "--num-prompts", str(spec.num_requests),
            "--max-concurrency", str(spec.clients), "--ignore-eos", "--temperature", "0", "--seed", seed,
            "--metric-percentiles", "50,99", "--header", "Connection=close", "--disable-tqdm", "--save-result",
            "--result-dir", str(self._result.parent), "--result-filename", self._result.name,
        ]  # fmt: skip
        self._family.resume()
        try:
            with self._log.open("ab") as log:
                environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
                code = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log).returncode
        finally:
            self._family.pause()
        if code or not self._result.exists():
            raise ServerError(f"quire bench serve ended with code {code}; see {self._log}")
        report: dict[str, Any] = json.loads(self._result.read_text())
        if report["completed"] != spec.num_requests:
            raise ServerError(f"{report['completed']} of {spec.num_requests} requests were answered; see {self._log}")
        if report["total_output_tokens"] != spec.num_requests * spec.output_len:
            raise ServerError(f"{report['total_output_tokens']} tokens came; see {self._log}")
        return report

    def peak_bytes(self) -> int:
        return self._family.peak_bytes()

    def end(self) -> None:
        self._family.end()

    def _wait(self, deadline: float) -> None:
        while time.perf_counter() < deadline:
            if self._family.process.poll() is not None:
                raise ServerError(f"the server ended with code {self._family.process.returncode}; see {self._log}")
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
            try:
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            finally:
                connection.close()
            time.sleep(0.01)
        raise ServerError(f"the server was not ready after {READY_S} s; see {self._log}")


class InProcess:
    """The clients of an engine that brings no server: a loop inside its process. Flatters it: nothing crosses HTTP."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.start_s = driver.start_s

    def run(self, spec: Clients, seed: str) -> dict[str, Any]:
        asked = prompts(f"clients {seed}", spec.num_requests, spec.prompt_len)
        answer = self._driver.clients(asked, spec.output_len, spec.clients)
        first_s, gaps_s = sorted(answer["first_s"]), sorted(answer["gaps_s"])
        return {
            "output_throughput": spec.num_requests * spec.output_len / answer["seconds"],
            "median_ttft_ms": 1e3 * _percentile(first_s, 50),
            "p99_ttft_ms": 1e3 * _percentile(first_s, 99),
            "median_itl_ms": 1e3 * _percentile(gaps_s, 50),
            "p99_itl_ms": 1e3 * _percentile(gaps_s, 99),
            "mean_tpot_ms": 1e3 * sum(gaps_s) / len(first_s) / (spec.output_len - 1),
        }

    def peak_bytes(self) -> int:
        return self._driver.peak_bytes()

    def end(self) -> None:
        self._driver.end()


def face(
    launcher: Launcher, contender: Contender, model: Path, tokenizer: Path, log: Callable[[Contender, str], Path]
) -> Server | InProcess:
    """The server of a contender, or what stands for it. Raises ServerError or driver.DriverError."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = launcher.serve(contender, model, port)
    if command is not None:
        return Server(launcher, contender, command, port, tokenizer, log(contender, "server"))
    if contender.engine == "openvino":
        return InProcess(launcher.driver(contender, model, log(contender, "clients")))
    raise ServerError(f"{contender.engine} brings no server that batches")


def measure(name: str, served: Server | InProcess, number: int) -> Metrics:
    """Run an HTTP workload once, for round ``number``. Raises ServerError or driver.DriverError."""
    report = served.run(HTTP[name], str(1000 * number + int(name[1:])))
    if name == "W6":
        return {"w6": 1e3 / report["mean_tpot_ms"], "w6_ttft_p50_ms": report["median_ttft_ms"]}
    return {
        "w5": report["output_throughput"],
        "w5_ttft_p50_ms": report["median_ttft_ms"],
        "w5_ttft_p99_ms": report["p99_ttft_ms"],
        "w5_itl_p50_ms": report["median_itl_ms"],
        "w5_itl_p99_ms": report["p99_itl_ms"],
    }


def _percentile(ordered: list[float], percent: float) -> float:
    """Linear between neighbours, as numpy's default."""
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
