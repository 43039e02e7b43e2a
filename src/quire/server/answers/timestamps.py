"""Moments as RFC 3339 says them, for APIs that tell no seconds."""

from datetime import UTC, datetime


def rfc3339(seconds: float) -> str:
    """Of seconds since 1970, as time.time() counts them; in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
