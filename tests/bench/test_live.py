"""The benchmarks as they are typed, on a tiny model: a real server, and engines in this process."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quire.cli.main import main

SMALL = ["--max-model-len", "256", "--num-gpu-blocks-override", "100"]


@pytest.fixture(scope="module")
def live(tiny_checkpoint: Callable[[str], Path]) -> Iterator[str]:
    """The address of a server."""
    command = [sys.executable, "-m", "quire", "serve", str(tiny_checkpoint("llama")), "--port", "0", *SMALL]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if found := re.search(r"http://\S+", line):
            yield found.group()
            break
    else:
        pytest.fail(f"the server did not start: {''.join(seen)}")
    process.terminate()
    process.communicate(timeout=60)


@pytest.mark.parametrize(
    ("flags", "num_input", "num_output"),
    [
        ("--input-len 40 --output-len 7", 240, 42),
        ("--input-len 40 --output-len 1", 240, 6),
        ("--backend openai-chat --input-len 40 --output-len 7", None, 42),
        ("--dataset-name prefix_repetition --prefix-repetition-prefix-len 30 --prefix-repetition-suffix-len 9 "
         "--prefix-repetition-num-prefixes 2 --output-len 5 --ignore-eos", 234, 30),
        ("--dataset-name sonnet --sonnet-input-len 90 --sonnet-output-len 3 --sonnet-prefix-len 60 --ignore-eos "
         "--request-rate 200 --burstiness 0.5", 540, 18),
    ],
)  # fmt: skip
def test_a_real_server(
    live: str, tmp_path: Path, capsys: Any, flags: str, num_input: int | None, num_output: int
) -> None:
    save = ["--save-result", "--save-detailed", "--result-dir", str(tmp_path), "--result-filename", "r.json"]
    common = ["--num-prompts", "6", "--max-concurrency", "3", "--num-warmups", "1", "--temperature", "0"]
    assert main(["bench", "serve", "--base-url", live, *common, *save, *flags.split()]) == 0
    out, err = capsys.readouterr()
    assert "Serving Benchmark Result" in out and "other tokens" not in err
    found = json.loads((tmp_path / "r.json").read_bytes())
    assert (found["completed"], found["failed"]) == (6, 0)
    assert found["total_output_tokens"] == num_output
    assert num_input is None or found["total_input_tokens"] == num_input
    assert all(0 < ttft <= latency for ttft, latency in zip(found["ttfts"], found["latencies"], strict=True))
    assert found["max_concurrent_requests"] <= 3


def test_requests_that_the_server_refuses(live: str, capsys: Any) -> None:
    assert main(["bench", "serve", "--base-url", live, "--num-prompts", "2", "--input-len", "300"]) == 1
    _, err = capsys.readouterr()
    assert "2 requests failed; the first said: HTTP status 400: " in err and "256" in err


def test_throughput(tiny_checkpoint: Callable[[str], Path], tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "throughput.json"
    flags = "--num-prompts 6 --input-len 40 --output-len 5 --num-warmups 1 --temperature 0 --disable-tqdm --seed 3"
    model = str(tiny_checkpoint("llama"))
    assert main(["bench", "throughput", model, *SMALL, *flags.split(), "--output-json", str(path)]) == 0
    out, _ = capsys.readouterr()
    number = r"(\d+\.\d\d)"
    pattern = rf"Throughput: {number} requests/s, {number} total tokens/s, {number} output tokens/s\n"
    printed = re.match(pattern, out)
    assert printed is not None
    assert out.endswith("Total num prompt tokens:  240\nTotal num output tokens:  30\n")
    found = json.loads(path.read_bytes())
    assert (found["num_requests"], found["total_num_tokens"]) == (6, 270)
    assert found["requests_per_second"] == pytest.approx(6 / found["elapsed_time"])
    assert found["tokens_per_second"] == pytest.approx(270 / found["elapsed_time"])
    assert float(printed.group(3)) == pytest.approx(found["output_tokens_per_second"], abs=0.01)


def test_several_answers_to_each_prompt(tiny_checkpoint: Callable[[str], Path], capsys: Any) -> None:
    flags = "--num-prompts 2 --input-len 20 --output-len 3 --n 3 --disable-tqdm"
    assert main(["bench", "throughput", str(tiny_checkpoint("llama")), *SMALL, *flags.split()]) == 0
    assert capsys.readouterr().out.endswith("Total num prompt tokens:  40\nTotal num output tokens:  18\n")


def test_latency(tiny_checkpoint: Callable[[str], Path], tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "latency.json"
    flags = "--input-len 12 --output-len 3 --batch-size 2 --num-iters-warmup 1 --num-iters 3 --disable-tqdm"
    model = str(tiny_checkpoint("llama"))
    assert main(["bench", "latency", "--model", model, *SMALL, *flags.split(), "--output-json", str(path)]) == 0
    out, _ = capsys.readouterr()
    labels = ["Avg latency", *(f"{p}% percentile latency" for p in (10, 25, 50, 75, 90, 99))]
    assert re.fullmatch("".join(rf"{label}: [\d.e-]+ seconds\n" for label in labels), out)
    found = json.loads(path.read_bytes())
    assert len(found["latencies"]) == 3 and list(found["percentiles"]) == ["10", "25", "50", "75", "90", "99"]
    assert found["avg_latency"] == pytest.approx(sum(found["latencies"]) / 3)
    assert found["percentiles"]["50"] == sorted(found["latencies"])[1]


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["bench", "speed"], 2, "quire bench has no speed"),
        (["bench", "throughput", "--async-engine"], 2, "--async-engine: this runs the LLM class"),
        (["bench", "throughput", "--input-len", "0"], 2, "--input-len: 0: must be at least 1"),
        (["bench", "latency", "--batch-size", "x"], 2, "--batch-size: x: expected a whole number"),
        (["bench", "latency", "--output-json", "/dev/null/x/y.json"], 2, "/dev/null/x: cannot be made"),
        (["bench", "latency", "/no/such/model"], 1, "/no/such/model"),
    ],
)
def test_wrong_usage_is_one_line(argv: list[str], code: int, words: str, capsys: Any) -> None:
    assert main(argv) == code
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


@pytest.mark.parametrize("argv", [["bench"], ["bench", "--help"]])
def test_overview(argv: list[str], capsys: Any) -> None:
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in ("serve", "throughput", "latency"))


@pytest.mark.parametrize("command", ["serve", "throughput", "latency"])
def test_help(command: str, capsys: Any) -> None:
    assert main(["bench", command, "--help"]) == 0
    assert "--output-len" in capsys.readouterr().out
