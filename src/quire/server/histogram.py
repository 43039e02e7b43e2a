"""A histogram that takes many equal observations at once, which the one of prometheus_client cannot.

In a steady step every sequence waited the same time for its token: one bisection and one addition count them all.
"""

from bisect import bisect_left
from collections.abc import Sequence
from math import inf

from prometheus_client.metrics_core import HistogramMetricFamily


class Histogram:
    """``name`` and ``help`` as they are published; ``bounds`` are the buckets' upper ends, without infinity."""

    def __init__(self, name: str, help: str, bounds: Sequence[float]) -> None:
        self.name = name
        self.help = help
        self._bounds = [float(bound) for bound in bounds]
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """``count`` observations of ``value``."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    def family(self, labels: dict[str, str]) -> HistogramMetricFamily:
        """All of it as it is now."""
        family = HistogramMetricFamily(self.name, self.help, labels=list(labels))
        total, buckets = 0, []
        for bound, count in zip([*self._bounds, inf], self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == inf else repr(bound), total))
        family.add_metric(list(labels.values()), buckets, self._sum)
        return family


def one_two_five(limit: int) -> list[float]:
    """1, 2, 5, 10, 20, ... up to ``limit``."""
    bounds: list[float] = []
    power = 1
    while True:
        for step in (1, 2, 5):
            if step * power > limit:
                return bounds
            bounds.append(step * power)
        power *= 10
