"""Regular expressions of a checkpoint's configuration, which may be anyone's.

Python's matcher tries one way after the other, and ``(a*)*b`` has more of them than there is time for. Law: an
expression is taken only if its ways to match a name are few, counted from above before anything is matched.
"""

import re
from re import _constants as op  # type: ignore[attr-defined]  # the only parser of just this language
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from quire.core.errors import CorruptCheckpoint

_MAX_LENGTH = 1000
_NAME_LENGTH = 64
"""About what the name of a linear has: so often may something in it be repeated."""
_MAX_WAYS = 100_000_000
"""Four wildcards."""


def compiled(pattern: str) -> re.Pattern[str]:
    """A regular expression of a checkpoint's configuration. Raises CorruptCheckpoint."""
    try:
        if len(pattern) <= _MAX_LENGTH and _ways(parser.parse(pattern)) <= _MAX_WAYS:
            return re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        pass
    raise CorruptCheckpoint(
        f"config.json $.quantization_config has {pattern[:100]!r} in the place of a regular expression of at most "
        f"{_MAX_LENGTH} characters and four wildcards, none of them inside another repetition."
    )


def _ways(items: Any) -> int:
    """At most so many ways there are to match these items, one behind the other, or a little more than the limit."""
    ways = 1
    for kind, what in items:
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
            low, high, inner = what
            times = min(int(high), _NAME_LENGTH)
            ways *= (times - min(int(low), times) + 1) * _ways(inner) ** times
        elif kind is op.BRANCH:
            ways *= sum(map(_ways, what[1]))
        elif kind in (op.SUBPATTERN, op.ASSERT, op.ASSERT_NOT):
            ways *= _ways(what[-1])
        elif kind is op.ATOMIC_GROUP:
            ways *= _ways(what)
        elif kind is op.GROUPREF_EXISTS:
            ways *= _ways(what[1]) + _ways(what[2] or ())
        ways = min(ways, _MAX_WAYS + 1)
    return ways
