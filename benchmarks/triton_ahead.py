"""What the Triton kernels ask of an H200, found by compiling them: registers, shared memory, spills, instructions.

    PYTHONPATH=src python benchmarks/triton_ahead.py [module ...]

Writes benchmarks/results/triton-sm90.md; with modules named, prints their rows instead. Warps are those that fit one of
the device's multiprocessors at once, of 64, by registers and shared memory.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "benchmarks" / "results" / "triton-sm90.md"
REGISTERS, SHARED_BYTES, WARPS, BLOCKS = 65536, 228 * 1024, 64, 32
"""Of one multiprocessor. A block's shared memory comes with a KiB of the system's."""
TOLD = ("HGMMA", "QGMMA", "IGMMA", "HMMA", "IMMA", "UTMALDG", "LDGSTS", "LDG", "STG", "ATOM", "RED", "LDL", "STL")
"""Instructions worth a look: products, copies, loads and stores; the last two are local memory."""
WIDEST = {"LDG", "STG", "LDGSTS"}

HEAD = """# Triton kernels, compiled for an H200

Every launch that a file of kernels names in its `VARIANTS`, compiled as its launcher would launch it, with no device at
hand: what NVIDIA's assembler says of it. `warps`: of a program, and of all programs that fit a multiprocessor at once
(of 64). `stack` that is not spilled belongs to functions of CUDA's library. Nothing here is a time.

Triton {version}, sm_{arch}. Command: `PYTHONPATH=src python benchmarks/triton_ahead.py`

| kernel | variant | warps | stages | registers | shared B | stack B | spilled B | instructions |
|---|---|---|---|---|---|---|---|---|
"""


def compiled(modules: list[str]) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    environment.setdefault("TRITON_CACHE_DIR", str(ROOT / "build" / "triton"))
    command = [sys.executable, str(ROOT / "tests" / "triton" / "ahead.py"), *modules]
    answer: dict[str, Any] = json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE).stdout)
    return answer


def resident_warps(result: dict[str, Any]) -> int:
    """How many warps of this kernel a multiprocessor holds; registers are handed out by 8 a thread."""
    warps = result["num_warps"]
    registers = -(-result["registers"] // 8) * 8 * 32 * warps
    blocks = min(BLOCKS, WARPS // warps, REGISTERS // registers, SHARED_BYTES // (result["shared"] + 1024))
    return int(blocks * warps)


def told(instructions: dict[str, int]) -> str:
    """The instructions worth a look, loads and stores by their width in bits."""
    found: Counter[str] = Counter()
    for name, number in instructions.items():
        base, *modifiers = name.split(".")
        if base in TOLD:
            width = next((part for part in modifiers if part in ("64", "128")), "32") if base in WIDEST else ""
            found[f"{base}.{width}" if width else base] += number
    order = sorted(found, key=lambda name: (TOLD.index(name.split(".")[0]), name))
    return ", ".join(f"{found[name]} {name}" for name in order)


def row(result: dict[str, Any]) -> str:
    name = f"| {result['module']}: {result['kernel']} | {result['variant']} |"
    if "error" in result:
        return f"{name} does not compile: {result['error'].strip().splitlines()[-1]} |||||||"
    warps = f"{result['num_warps']}, {resident_warps(result)}"
    used = " | ".join(str(result[name]) for name in ("num_stages", "registers", "shared", "stack", "spilled"))
    return f"{name} {warps} | {used} | {told(result['instructions'])} |"


def main() -> None:
    modules = sys.argv[1:]
    answer = compiled(modules)
    rows = "\n".join(map(row, answer["results"])) + "\n"
    if modules:
        print(rows, end="")
    else:
        TABLE.write_text(HEAD.format(version=answer["triton"], arch=answer["arch"]) + rows)


if __name__ == "__main__":
    main()
