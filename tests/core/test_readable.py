"""Whether there is something to read, whatever the descriptor's number."""

import fcntl
import os
import resource
from collections.abc import Iterator

import pytest

from quire.core.readable import wait_readable

HIGH = 1500


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard <= HIGH:
        pytest.skip(f"this system allows {hard} open files")
    if soft <= HIGH:
        resource.setrlimit(resource.RLIMIT_NOFILE, (HIGH + 100 if hard == resource.RLIM_INFINITY else hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_descriptors_have_any_number(many_descriptors: None) -> None:
    low, write_end = os.pipe()
    with os.fdopen(write_end, "wb", 0) as writer, os.fdopen(fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, HIGH)) as reader:
        os.close(low)
        assert reader.fileno() >= HIGH
        assert not wait_readable(reader, 0)
        writer.write(b"x")
        assert wait_readable(reader, 0) and wait_readable(reader)


def test_an_end_is_something_to_read() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as reader:
        os.close(write_end)
        assert wait_readable(reader)
