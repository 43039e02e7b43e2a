"""Notices that a text has begun to go round in circles.

Law: true as soon as the tokens so far end with one pattern of allowed size, written ``min_count`` times in a row. Time
for a token is linear in the number of allowed sizes, whatever the text's length.
"""

import numpy as np

from quire.core.sampling_params import RepetitionDetection


class RepetitionDetector:
    """Watches the tokens of one continuation."""

    def __init__(self, wanted: RepetitionDetection) -> None:
        self._sizes = np.arange(wanted.min_pattern_size, wanted.max_pattern_size + 1)
        self._needed = self._sizes * (wanted.min_count - 1)
        self._last = np.full(wanted.max_pattern_size, -1, np.int64)
        """The last tokens, as a ring."""
        self._runs = np.zeros(len(self._sizes), np.int64)
        """By size: how many tokens in a row equal the one that many places before."""
        self._count = 0

    def push(self, token: int) -> bool:
        """Take one more token; True when the tokens end in a repetition."""
        before = self._last[(self._count - self._sizes) % len(self._last)]
        self._runs = np.where(before == token, self._runs + 1, 0)
        self._last[self._count % len(self._last)] = token
        self._count += 1
        return bool((self._runs >= self._needed).any())
