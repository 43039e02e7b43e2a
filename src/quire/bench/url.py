"""Where a server is."""

import contextlib
from urllib.parse import SplitResult, urlsplit

from quire.core.errors import ConfigError


def split_url(flag: str, url: str) -> SplitResult:
    """The parts of a server's URL, which a flag gave. Raises ConfigError."""
    with contextlib.suppress(ValueError):  # of brackets that hold no address, and of a port that is none
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    raise ConfigError(f"{flag} {url}: must look like http://localhost:8000.")
