"""Compile what the VARIANTS of kernel files launch, on a machine without a GPU, and say what it asks of the device.

    PYTHONPATH=src python tests/triton/ahead.py [--arch 90] [module ...]      (all files of kernels, or some: norm)

Prints JSON: one object for each kernel that a variant launches. Runs in a process of its own, in which Triton compiles
and does not interpret; a launch is taken down instead of made. Triton's cache keeps what did not change; it lies where
TRITON_CACHE_DIR says.
"""

import argparse
import importlib
import inspect
import json
import multiprocessing
import os
import pkgutil
import re
import subprocess
import tempfile
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton._C.libtriton import native_specialize_impl
from triton.backends.compiler import BaseBackend, GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from quire.kernels import triton as room

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
MAX_GRID = (2**31 - 1, 65535, 65535)
MOST_WORKERS = 8
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE)

Result = dict[str, Any]


@dataclass
class Launch:
    """One kernel as a launcher would have started it."""

    kernel: Any
    source: ASTSource
    options: dict[str, Any]


def take_down(kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any], grid: Any) -> Launch:
    """Specialize as Triton does at launch: by types, by what is divisible by 16, by what is 1 or None."""
    names = set(kernel.arg_names)
    options = {name: value for name, value in kwargs.items() if name not in names}
    bound = inspect.signature(kernel.fn).bind(*args, **{name: kwargs[name] for name in kwargs if name in names})
    bound.apply_defaults()
    blocks = grid({**bound.arguments, **options}) if callable(grid) else grid
    assert all(0 < count <= most for count, most in zip(blocks, MAX_GRID, strict=False)), f"a grid of {blocks}"
    signature, constants, attributes = {}, {}, {}
    for place, (param, value) in enumerate(zip(kernel.params, bound.arguments.values(), strict=True)):
        if param.is_constexpr:
            kind, extra = "constexpr", value
        else:
            kind, extra = native_specialize_impl(
                BaseBackend,
                value,
                param.is_const,
                not param.do_not_specialize,
                not param.do_not_specialize_on_alignment,
            )
        signature[param.name] = kind
        if kind == "constexpr":
            constants[(place,)] = extra
        elif extra:
            attributes[(place,)] = BaseBackend.parse_attr(extra)
    return Launch(kernel, ASTSource(kernel, signature, constants, attributes), options)


def launches(call: Any) -> list[Launch]:
    """What ``call`` would launch, each once."""
    taken: dict[str, Launch] = {}

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        launch = take_down(self, args, kwargs, grid)
        taken[f"{launch.source.hash()} {launch.options}"] = launch

    JITFunction.run, theirs = run, JITFunction.run
    try:
        call()
    finally:
        JITFunction.run = theirs
    return list(taken.values())


def examine(cubin: bytes, ptx: str, arch: int) -> Result:
    """Static use of the device, by NVIDIA's own tools, and how often each instruction stands in the code."""
    name = f"sm_{arch}a" if arch >= 90 else f"sm_{arch}"
    with tempfile.TemporaryDirectory() as folder:
        binary, text = Path(folder) / "kernel.cubin", Path(folder) / "kernel.ptx"
        binary.write_bytes(cubin)
        text.write_text(ptx)
        used = _run("cuobjdump", "--dump-resource-usage", binary)
        code = _run("nvdisasm", "-c", binary)
        log = _assembled(text, name)
    found = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", used))
    spilled = re.findall(r"(\d+) bytes spill (?:stores|loads)", log)
    return {
        "registers": int(found["REG"]),
        "stack": int(found["STACK"]) + int(found["LOCAL"]),
        "spilled": sum(map(int, spilled)),
        "instructions": dict(Counter(INSTRUCTION.findall(code))),
    }


def _assembled(text: Path, name: str) -> str:
    """What the assembler says. There may be two: Triton 3.9's code for Hopper is of the newer one's version."""
    arguments = ("-v", f"--gpu-name={name}", text, "-o", os.devnull)
    newer = TOOLS / "ptxas-blackwell"
    try:
        return _run("ptxas", *arguments)
    except AssertionError:
        if not newer.exists():
            raise
    return _run(newer.name, *arguments)


def _run(tool: str, *arguments: object) -> str:
    done = subprocess.run([TOOLS / tool, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, f"{tool}: {done.stderr}"
    return done.stdout + done.stderr


def compile_one(launch: Launch, arch: int) -> Result:
    compiled = triton.compile(launch.source, target=GPUTarget("cuda", arch, 32), options=launch.options)
    return {
        "num_warps": compiled.metadata.num_warps,
        "num_stages": compiled.metadata.num_stages,
        "shared": compiled.metadata.shared,
        **examine(compiled.asm["cubin"], compiled.asm["ptx"], arch),
    }


def work(module: str, place: int, arch: int) -> list[Result]:
    """One variant; what goes wrong is a result too, so that the others are still seen."""
    variant = importlib.import_module(f"{room.__name__}.{module}").VARIANTS[place]
    results = []
    try:
        taken = launches(variant.call)
        assert taken, "nothing was launched"
        unknown = set(variant.expects) - {launch.kernel.fn.__name__ for launch in taken}
        assert not unknown, f"not launched: {unknown}"
    except Exception:
        return [{"module": module, "variant": variant.name, "kernel": "", "error": traceback.format_exc()}]
    for launch in taken:
        result: Result = {"module": module, "variant": variant.name, "kernel": launch.kernel.fn.__name__}
        try:
            result |= compile_one(launch, arch)
        except Exception:
            result["error"] = traceback.format_exc()
        results.append(result)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, default=90)
    parser.add_argument("modules", nargs="*")
    args = parser.parse_args()
    modules = args.modules or [entry.name for entry in pkgutil.iter_modules(room.__path__)]
    jobs = []
    for module in modules:
        variants = getattr(importlib.import_module(f"{room.__name__}.{module}"), "VARIANTS", ())
        jobs += [(module, place, args.arch) for place in range(len(variants))]
    workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
        results = [result for done in pool.map(work, *zip(*jobs, strict=True)) for result in done] if jobs else []
    print(json.dumps({"triton": triton.__version__, "arch": args.arch, "results": results}))


if __name__ == "__main__":
    main()
