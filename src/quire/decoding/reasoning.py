"""How much of a sequence is reasoning, and how it is brought to its end.

Law: everything here is a function of the sequence's own tokens, so a resumed sequence reasons on where it was.
"""

from collections import deque
from collections.abc import Sequence

from quire.core.request import ReasoningMarks


class ReasoningBound:
    """The reasoning of one sequence. Reasoning that opens again goes on with what is left of the budget."""

    def __init__(self, marks: ReasoningMarks) -> None:
        assert marks.end_ids and (marks.begin_ids or marks.is_open), "reasoning that nothing opens or ends"
        self.begin_ids = marks.begin_ids
        self.is_open = marks.is_open
        self._end_ids = marks.end_ids
        self._num_left = marks.budget
        self._tail: deque[int] = deque(maxlen=max(len(marks.begin_ids), len(marks.end_ids)))

    def follow(self, token: int) -> None:
        """Take in the sequence's next generated token."""
        self._tail.append(token)
        if not self.is_open:
            if self.begin_ids and self._num_matching(self.begin_ids) == len(self.begin_ids):
                self.is_open = True
                self._tail.clear()
        elif self._num_matching(self._end_ids) == len(self._end_ids):
            self.is_open = False
            self._num_left += len(self._end_ids) - 1  # the marks are no reasoning
            self._tail.clear()
        else:
            self._num_left -= 1

    def closing(self) -> tuple[int, ...]:
        """What must follow now to end it: nothing while there is budget, else what is not yet there of the end."""
        if not self.is_open or self._num_left > 0:
            return ()
        return self._end_ids[self._num_matching(self._end_ids) :]

    def _num_matching(self, ids: Sequence[int]) -> int:
        """How many of ``ids``, from the first on, are the last tokens."""
        tail = tuple(self._tail)
        lengths = range(min(len(tail), len(ids)), 0, -1)
        return next((length for length in lengths if tail[-length:] == tuple(ids[:length])), 0)
