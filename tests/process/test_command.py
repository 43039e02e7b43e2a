"""The command ``quire`` as a user runs it: real processes, a tiny model, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

QUIRE = [sys.executable, "-m", "quire"]


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``quire`` with these arguments; whatever is left at the end of a test is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(*argv: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*QUIRE, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "QUIRE_LOG_LEVEL": "warning"},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def engines(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children() if "quire.engine.process" in child.cmdline()]


def test_serve_answers_a_chat_and_ends_on_ctrl_c(
    start: Callable[..., subprocess.Popen[str]], tiny_checkpoint: Callable[[str], Path]
) -> None:
    server = start("serve", str(tiny_checkpoint("llama")), "--port", "0", "--served-model-name", "tiny")
    assert server.stdout is not None
    line = server.stdout.readline()
    assert line.startswith("Quire serves tiny at http://127.0.0.1:"), line
    engine = engines(server)[0]
    url = line.split()[-1]
    chat = start("chat", "--url", url, "-q", "hello", "--temperature", "0", "--max-tokens", "5")
    answer, complaint = chat.communicate(timeout=60)
    assert chat.returncode == 0 and answer.endswith("\n") and not complaint
    server.send_signal(signal.SIGINT)
    out, err = server.communicate(timeout=60)
    assert (server.returncode, out, err) == (0, "", "")
    assert not engine.is_running()


def starting_engine(server: subprocess.Popen[str]) -> psutil.Process:
    """As soon as there is one."""
    while not (found := engines(server)):
        assert server.poll() is None
    return found[0]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopping_while_starting_is_quiet(
    start: Callable[..., subprocess.Popen[str]], tiny_checkpoint: Callable[[str], Path], stop: signal.Signals
) -> None:
    server = start("serve", str(tiny_checkpoint("llama")), "--port", "0")
    engine = starting_engine(server)
    server.send_signal(stop)
    out, err = server.communicate(timeout=60)
    assert (server.returncode, out, err) == (130, "", "")
    assert not engine.is_running()


@pytest.mark.parametrize("is_up", [False, True])
def test_an_engine_does_not_outlive_a_server_that_is_killed(
    start: Callable[..., subprocess.Popen[str]], tiny_checkpoint: Callable[[str], Path], is_up: bool
) -> None:
    server = start("serve", str(tiny_checkpoint("llama")), "--port", "0")
    engine = starting_engine(server)
    if is_up:
        assert server.stdout is not None and server.stdout.readline()
    server.kill()
    engine.wait(timeout=60)


def test_a_batch_on_an_engine_of_its_own(
    start: Callable[..., subprocess.Popen[str]], tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    body = {"prompt": "The quick", "max_tokens": 4, "temperature": 0}
    lines = [{"custom_id": str(n), "method": "POST", "url": "/v1/completions", "body": body} for n in range(3)]
    lines.append(lines[0] | {"custom_id": "bad", "body": body | {"max_tokens": -5}})
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    argv = ("-i", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"))
    batch = start("run-batch", str(tiny_checkpoint("llama")), *argv)
    _, err = batch.communicate(timeout=120)
    assert batch.returncode == 1 and err.endswith(f"3 answered, 1 failed: {tmp_path / 'out.jsonl'}\n")
    answers = [json.loads(line)["response"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [answer["status_code"] for answer in answers] == [200, 200, 200, 400]
    texts = {answer["body"]["choices"][0]["text"] for answer in answers[:3]}
    assert len(texts) == 1 and texts != {""}


def test_a_corrupt_model_is_one_line(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    server = start("serve", str(path), "--port", "0")
    out, err = server.communicate(timeout=60)
    assert server.returncode == 1 and out == ""
    assert "Traceback" not in err and err.splitlines()[-1].startswith("quire: error: ") and "bad.gguf" in err
