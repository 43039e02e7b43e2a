"""Every launch of production compiles for an H200, within what it has, and into the instructions that make it fast."""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from quire.kernels import triton as room

ROOT = Path(__file__).parents[2]
MOST_SHARED_BYTES = 227 * 1024
VARIANTS = [
    (entry.name, variant)
    for entry in pkgutil.iter_modules(room.__path__)
    for variant in getattr(importlib.import_module(f"{room.__name__}.{entry.name}"), "VARIANTS", ())
]


def count(instructions: Mapping[str, int], wanted: str) -> int:
    """Instructions with the name and at least the modifiers of ``wanted``: LDG.128 counts LDG.E.128.CONSTANT."""
    name, *modifiers = wanted.split(".")
    every = ((found.split("."), number) for found, number in instructions.items())
    return sum(number for parts, number in every if parts[0] == name and set(modifiers) <= set(parts))


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Results by file and variant, of the files that are asked about."""
    calls = (getattr(item, "callspec", None) for item in request.session.items if item.path == request.path)
    asked = {call.params["module"] for call in calls if call is not None}
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(ROOT / "src")}
    environment.setdefault("TRITON_CACHE_DIR", str(ROOT / "build" / "triton"))
    command = [sys.executable, str(Path(__file__).with_name("ahead.py")), *sorted(asked)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in json.loads(done.stdout)["results"]:
        found.setdefault((result["module"], result["variant"]), []).append(result)
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("module", "variant"), VARIANTS, ids=[f"{module}-{variant.name}" for module, variant in VARIANTS]
)
def test_a_variant_fits_the_device(compiled: Mapping[tuple[str, str], Any], module: str, variant: Any) -> None:
    for result in compiled[module, variant.name]:
        kernel = result["kernel"]
        assert "error" not in result, result["error"]
        assert not result["spilled"], f"{kernel}: {result['spilled']} bytes spilled"
        assert result["shared"] <= MOST_SHARED_BYTES, f"{kernel}: {result['shared']} bytes of shared memory"
        for wanted, least in variant.expects.get(kernel, {}).items():
            number = count(result["instructions"], wanted)
            assert number >= least, f"{kernel}: {number} {wanted}, of {result['instructions']}"


def test_names_are_unique_in_a_file() -> None:
    names = Counter((module, variant.name) for module, variant in VARIANTS)
    assert not [name for name, number in names.items() if number > 1]
