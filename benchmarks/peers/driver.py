"""One engine's process, seen from the harness: started, asked, put to sleep while others run, weighed, ended.

Owns the process and everything it started. Law: whenever no request is under way the whole family is stopped by
SIGSTOP, so that an engine's spinning threads cost the others nothing.
"""

import ctypes
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


class DriverError(Exception):
    """An engine could not start, ended, or answered with an error. The message says where its log is."""


@dataclass(frozen=True)
class Answer:
    """What one call took inside the engine's process, in seconds, and the tokens it made."""

    seconds: float
    tokens: list[list[int]]


def die_with_parent() -> None:
    """Called between fork and exec: an engine that sleeps, or is busy, must not outlive a harness that was killed."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class Family:
    """A process and all its descendants, in a session of their own; standard output and error go to ``log``."""

    def __init__(self, command: list[str], env: dict[str, str], cwd: Path, log: Path, *, piped: bool) -> None:
        self.log = log
        self._log_file: IO[bytes] = log.open("ab")
        self.process = subprocess.Popen(
            command,
            env=os.environ | env,
            cwd=cwd,
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else self._log_file,
            stderr=self._log_file,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    def pids(self) -> list[int]:
        found = [self.process.pid]
        for pid in found:  # grows while it is walked
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    found += map(int, task.read_text().split())
                except OSError:
                    continue  # it ended meanwhile
        return found

    def signal(self, which: int) -> None:
        for pid in self.pids():
            try:
                os.kill(pid, which)
            except ProcessLookupError:
                continue

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def peak_bytes(self) -> int:
        """The sum of each process's highest resident size; pages that several share count in each."""
        total = 0
        for pid in self.pids():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            total += sum(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        return total

    def end(self, patience_s: float = 20) -> None:
        self.resume()
        family = self.pids()
        if self.process.stdin:
            self.process.stdin.close()
        else:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in family[1:]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._log_file.close()


class Driver:
    """The offline face of one engine, behind the protocol of drivers/protocol.py."""

    def __init__(self, command: list[str], env: dict[str, str], cwd: Path, log: Path) -> None:
        """Start, and wait until the model is loaded. Raises DriverError."""
        began = time.perf_counter()
        self._family = Family(command, env, cwd, log, piped=True)
        try:
            hello = self._read()
        except DriverError:
            self._family.end()
            raise
        self.start_s = time.perf_counter() - began
        self.version: str = hello["version"]
        self.settings: str = hello["settings"]
        self._family.pause()

    def generate(self, prompts: list[list[int]], output_len: int) -> Answer:
        """Raises DriverError, also when an answer has not the length asked for."""
        answer = self._ask({"do": "generate", "prompts": prompts, "output_len": output_len})
        lengths = {len(tokens) for tokens in answer["tokens"]}
        if len(answer["tokens"]) != len(prompts) or lengths != {output_len}:
            raise DriverError(f"asked {len(prompts)} for {output_len} tokens, got lengths {sorted(lengths)}")
        return Answer(answer["seconds"], answer["tokens"])

    def clients(self, prompts: list[list[int]], output_len: int, clients: int) -> dict[str, Any]:
        return self._ask({"do": "clients", "prompts": prompts, "output_len": output_len, "clients": clients})

    def peak_bytes(self) -> int:
        return self._family.peak_bytes()

    def end(self) -> None:
        self._family.end()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        pipe = self._family.process.stdin
        assert pipe is not None
        self._family.resume()
        try:
            pipe.write(json.dumps(request).encode() + b"\n")
            pipe.flush()
            return self._read()
        except BrokenPipeError as error:
            raise DriverError(f"the engine ended; see {self._family.log}") from error
        finally:
            self._family.pause()

    def _read(self) -> dict[str, Any]:
        pipe = self._family.process.stdout
        assert pipe is not None
        line = pipe.readline()
        if not line:
            raise DriverError(f"the engine ended; see {self._family.log}")
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise DriverError(f"{message['error']}; see {self._family.log}")
        return message
