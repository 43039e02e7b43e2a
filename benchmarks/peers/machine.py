"""What this machine is, and what it can do at most at this moment (limits.cpp, compiled here)."""

import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("limits.cpp")


class Limits:
    """The compiled program. Without a compiler ``measure`` returns nothing, and the report says so."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._threads = threads
        self._program = folder / "limits"
        compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))), None)
        if self._program.exists() and self._program.stat().st_mtime >= SOURCE.stat().st_mtime:
            return
        if compiler is None:
            self._program.unlink(missing_ok=True)
            return
        flags = ["-O3", "-march=native", "-std=c++17", "-pthread", "-w"]
        subprocess.run([compiler, *flags, str(SOURCE), "-o", str(self._program)], check=True)

    def measure(self) -> dict[str, float | None]:
        """GB/s read with one thread and with all, and billions of operations a second, as limits.cpp names them."""
        if not self._program.exists():
            return {}
        found = subprocess.run([str(self._program), str(self._threads)], check=True, stdout=subprocess.PIPE)
        limits: dict[str, float | None] = json.loads(found.stdout)
        return limits


def facts() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    info = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(info.get("flags", "").split())
    interesting = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": info.get("model name", platform.processor()),
        "family": f"{info.get('cpu family', '?')}/{info.get('model', '?')}",
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory_kb * 1024 / 1e9, 1),
        "extensions": [flag for flag in interesting if flag in flags],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def commit(root: Path) -> str:
    """The checkout's commit, marked when files differ from it."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=7"], cwd=root, stdout=subprocess.PIPE, text=True
    )
    return found.stdout.strip() or "unknown"
