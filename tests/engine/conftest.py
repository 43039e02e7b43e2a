"""What tests of the engine share."""

from collections import Counter

import numpy as np
import pytest

from quire.decoding.slots import Choice
from quire.engine.worker.recorded import RecordedForward


@pytest.fixture
def short_ways(monkeypatch: pytest.MonkeyPatch) -> Counter[Choice]:
    """How many steps went one of them."""
    counts, advance = Counter[Choice](), RecordedForward.advance

    def counted(self: RecordedForward, slots: np.ndarray, positions: np.ndarray, choice: Choice) -> np.ndarray | None:
        ids = advance(self, slots, positions, choice)
        counts[choice] += ids is not None
        return ids

    monkeypatch.setattr(RecordedForward, "advance", counted)
    return counts
