"""Numbers of a command's own options, read with limits: types for argparse."""

import argparse
import math
from collections.abc import Callable

from quire.cli.fields import parse_int


def whole(least: int) -> Callable[[str], int]:
    """Reads whole numbers from ``least`` up, ``4k`` allowed."""

    def read(text: str) -> int:
        try:
            value = parse_int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text}: expected a whole number.") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{text}: must be at least {least}.")
        return value

    return read


def number(text: str) -> float:
    """Reads a number; ``inf`` is one."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: expected a number.") from None
    if math.isnan(value):
        raise argparse.ArgumentTypeError(f"{text}: expected a number.")
    return value


def finite(text: str) -> float:
    """Reads a number that a request can hold: JSON has no ``inf``."""
    value = number(text)
    if math.isinf(value):
        raise argparse.ArgumentTypeError(f"{text}: must be finite.")
    return value
