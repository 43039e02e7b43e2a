"""What runs unattended on a machine with a CUDA device, tried without one: small shapes, and parts that misbehave."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = """
import json, os, sys, time
name, journal = sys.argv[2], sys.argv[4]
with open(journal, "w") as file:
    def say(line):
        file.write(json.dumps(line) + "\\n")
        file.flush()
    say({"table": "found", "of": name})
    if name == "hangs":
        time.sleep(60)
    if name == "crashes":
        print("illegal access", flush=True)
        os.abort()
    say({"end": "it was wrong" if name == "fails" else ""})
"""


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def test_parts_do_not_spoil_each_other(tmp_path: Path) -> None:
    from benchmarks.gpu.journal import Part, supervise

    names = ("works", "hangs", "crashes", "fails", "works still")
    parts = [Part(name, 2.0 if name == "hangs" else 60.0, lambda journal, seconds: None) for name in names]
    command = [sys.executable, "-c", PARTS]
    outcomes = supervise(command, parts, tmp_path, deadline=time.monotonic() + 60, workers=5)
    assert [outcome.name for outcome in outcomes] == list(names)
    assert all(outcome.rows == [{"table": "found", "of": outcome.name}] for outcome in outcomes)
    errors = [outcome.error for outcome in outcomes]
    assert errors[0] == errors[4] == "" and errors[3] == "it was wrong"
    assert errors[1].startswith("stopped after 2 s")
    assert errors[2].startswith("ended with -6") and errors[2].endswith("illegal access")


def test_what_is_not_reached_is_said(tmp_path: Path) -> None:
    from benchmarks.gpu.journal import Part, supervise

    parts = [Part("late", 60.0, lambda journal, seconds: None)]
    (outcome,) = supervise([sys.executable], parts, tmp_path, deadline=time.monotonic() + 1)
    assert outcome.error.startswith("not reached")


def run(program: str, folder: Path, *flags: str) -> dict[str, list[dict[str, object]]]:
    """Its rows by table, after it said that all went well."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OUT": str(folder)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", f"benchmarks.gpu.{program}", "--dry-run", *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / f"gpu-{program}-trial.md").read_text().startswith("# ")
    tables: dict[str, list[dict[str, object]]] = {}
    for part in json.loads((folder / f"gpu-{program}-trial.json").read_text())["parts"]:
        for row in part["rows"]:
            tables.setdefault(row["table"], []).append(row)
    return tables


def test_the_checks_fit_the_references(tmp_path: Path) -> None:
    """Every operator with a body for CUDA has cases, and its reference passes them."""
    tables = run("check", tmp_path, "--only", "op |sampling")
    assert len(tables["operators"]) > 100 and len(tables["sampling"]) > 20


def test_the_measurements_run(tmp_path: Path) -> None:
    tables = run("bench", tmp_path, "--only", "^(limits|llama-8b-bf16|operators)$")
    assert {row["workload"] for row in tables["serving"]} == {"one alone", "beside transformers"}
    assert all(isinstance(row["ms"], float) for row in (*tables["decode"], *tables["prompts"]))
    assert len(tables["operators"]) > 80 and not any("note" in row for row in tables["operators"])


def test_floors_are_those_of_a_hand_calculation() -> None:
    from benchmarks.gpu.roofline import H200, Model
    from benchmarks.gpu.shapes import LLAMA_8B, QWEN_30B_A3B, fp8

    llama, qwen = Model.of(LLAMA_8B), Model.of(fp8(QWEN_30B_A3B))
    assert llama.kv_bytes == 131_072 and qwen.kv_bytes == 98_304
    assert llama.decode(1, 1024, H200).total == pytest.approx(3.52e-3, rel=2e-3)
    assert llama.decode(256, 1024, H200).total == pytest.approx(12.85e-3, rel=2e-3)
    assert qwen.decode(1, 1024, H200).total == pytest.approx(0.81e-3, rel=1e-2)
    assert llama.prefill(4096, H200).total == pytest.approx(78.2e-3, rel=2e-3)
