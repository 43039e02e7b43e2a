"""The native kernels: built wherever they can be, and their sources kept as the others are."""

import os
import platform
import re
import shutil
import sys
from pathlib import Path

import pytest

from quire.kernels.cpu import library

COMPILERS = ("c++", "g++", "clang++")
MAX_LINE = 125


def _can_build() -> bool:
    """Whether this machine is of the kind that ``make native`` builds on."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return any(shutil.which(name) for name in (os.environ.get("CXX") or COMPILERS[0], *COMPILERS))


def _best_level() -> str:
    """The level that this processor's own word, in /proc/cpuinfo, allows."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = set(next(line for line in lines if line.startswith("flags")).split())
    v3 = {"avx2", "fma", "f16c", "bmi1", "bmi2"}
    v4 = v3 | {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"}
    needs = {"v4n": v4 | {"avx512_vnni", "avx512_bf16"}, "v4": v4, "v3": v3, "v2": {"sse4_2", "ssse3", "popcnt"}}
    return next(level for level in library.LEVELS if needs[level] <= flags)


@pytest.fixture(scope="module")
def sources(root: Path) -> list[Path]:
    found = sorted([*root.glob("csrc/*.cpp"), *root.glob("csrc/*.h")])
    assert found
    return found


@pytest.mark.skipif(not _can_build(), reason="no C++ compiler for x86-64 Linux here: the torch bodies run")
def test_the_kernels_of_this_machine_are_built() -> None:
    opened = [one.level for one in library.available()]
    assert opened, f"a C++ compiler is here, but {library.folder()} has no kernels that open: run make native"
    assert opened[0] == _best_level()
    assert opened == list(library.LEVELS[library.LEVELS.index(opened[0]) :])


def _letter(declared: str) -> str:
    """A C type by its letter in library.py."""
    if "*" in declared:
        return "s" if declared.startswith("const char") else "p"
    return {"int": "i", "int64_t": "l", "float": "f", "void": "i"}[declared.split()[0]]


def test_python_calls_what_the_header_declares(root: Path) -> None:
    header = (root / "csrc" / "quire.h").read_text()
    declared = {}
    for result, name, inside in re.findall(r"^QUIRE_API ([\w ]+\*?) ?(quire_\w+)\(([^)]*)\);", header, re.MULTILINE):
        arguments = "" if inside == "void" else "".join(_letter(" ".join(one.split())) for one in inside.split(","))
        declared[name] = f"{_letter(result + ' ')} {arguments}".strip()
    assert declared and declared == dict(library._SIGNATURES)


def test_every_source_is_compiled(root: Path, sources: list[Path]) -> None:
    listed = (root / "csrc" / "CMakeLists.txt").read_text()
    assert not [path.name for path in sources if path.suffix == ".cpp" and path.name not in listed]


def test_sources_say_what_they_are_and_fit_a_line(sources: list[Path]) -> None:
    found = []
    for path in sources:
        lines = path.read_text(encoding="utf-8").splitlines()
        # What a header declares, its .cpp need not tell again.
        if not lines[0].startswith(("//", "/*", f'#include "{path.stem}.h"')):
            found.append(f"{path.name} does not open with what it is")
        found += [f"{path.name}:{n} has {len(s)} characters" for n, s in enumerate(lines, 1) if len(s) > MAX_LINE]
    assert not found, "\n".join(found)
