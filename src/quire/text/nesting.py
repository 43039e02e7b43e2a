"""How deeply JSON may be nested: whoever goes through it later may have less stack than the one who read it."""

from typing import Any

MAX_NESTING = 256
"""Of objects and lists in what a client sends. Python's own stack has room for some 900, less what stands on it."""


def is_deeper(value: Any, most: int) -> bool:
    """Whether more than ``most`` objects and lists lie in each other; found without recursion."""
    level: list[Any] = [value]
    for _ in range(most + 1):
        level = [inner for outer in level if isinstance(outer, dict | list) for inner in _inside(outer)]
        if not level:
            return False
    return True


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value
