"""What one step gave each of its rows, until clients are told.

Law: a row has one token, and behind it the run of tokens that was forced. Told are all tokens, row after row, but not
those of rows whose sequence had ended before (handle -1), nor tokens of -1.
"""

from dataclasses import dataclass, field

import numpy as np

from quire.core.step import TopLogprobs


@dataclass(slots=True)
class StepRows:
    """The rows that sampled, R of them. Made and dropped by ``Scheduler.update``."""

    handles: np.ndarray
    """[R] int64."""
    tokens: np.ndarray
    """[R] int32."""
    logprobs: dict[int, TopLogprobs]
    runs: dict[int, np.ndarray] = field(default_factory=dict)
    """By row, [k] int32."""

    def run_size(self, row: int) -> int:
        run = self.runs.get(row)
        return 0 if run is None else run.size

    def last_token(self, row: int) -> int:
        return int(self.runs[row][-1] if self.run_size(row) else self.tokens[row])

    def unfold(self) -> None:
        """From a row for each sequence to a row for each token that is to be told."""
        keep = (self.handles >= 0) & (self.tokens >= 0)
        if not self.runs and keep.all():
            return
        counts = keep.astype(np.int64)
        for row, run in self.runs.items():
            counts[row] += run.size
        firsts = np.cumsum(counts) - counts
        self.handles, self.tokens = np.repeat(self.handles, counts), np.repeat(self.tokens, counts)
        for row, run in self.runs.items():
            self.tokens[firsts[row] + 1 : firsts[row] + 1 + run.size] = run
        self.logprobs = {int(firsts[row]): top for row, top in self.logprobs.items() if keep[row]}
        self.runs = {}
