"""When requests start.

The times between requests follow a gamma distribution of mean 1 / rate whose shape is ``burstiness``: 1 is a Poisson
process, less comes in bursts, more comes evenly. Without a ramp, times are stretched so that the requests take exactly
as long as the rate says, which takes one source of noise out of short runs.
"""

import math
from typing import Literal

import msgspec
import numpy as np

from quire.core.errors import ConfigError


class Plan(msgspec.Struct, frozen=True):
    """Parallel lists, one entry a request."""

    starts_s: list[float]
    """Seconds after the beginning, not decreasing; the first is 0."""
    rates: list[float]
    """Requests per second at that time."""


class Arrivals(msgspec.Struct, frozen=True, kw_only=True):
    """How fast requests come. A ramp goes from ``start_rps`` to ``end_rps`` over the run; without one, the rate stays.

    Raises ConfigError for what no requests can follow.
    """

    request_rate: float = math.inf
    """Requests per second; inf: all at once."""
    burstiness: float = 1.0
    ramp_up: Literal["linear", "exponential"] | None = None
    start_rps: float | None = None
    end_rps: float | None = None

    def __post_init__(self) -> None:
        if not self.request_rate > 0:
            raise ConfigError(f"--request-rate {self.request_rate}: must be more than 0, or inf.")
        if not 0 < self.burstiness < math.inf:
            raise ConfigError(f"--burstiness {self.burstiness}: must be more than 0.")
        if self.ramp_up is None:
            if self.start_rps is not None or self.end_rps is not None:
                raise ConfigError("--ramp-up-start-rps and --ramp-up-end-rps need --ramp-up-strategy.")
            return
        if self.request_rate != math.inf:
            raise ConfigError("--request-rate and --ramp-up-strategy exclude each other: give one of them.")
        if self.start_rps is None or self.end_rps is None:
            raise ConfigError("--ramp-up-strategy needs --ramp-up-start-rps and --ramp-up-end-rps.")
        lowest_is_zero = self.ramp_up == "linear"
        if self.start_rps < 0 or (self.start_rps == 0 and not lowest_is_zero):
            raise ConfigError(f"--ramp-up-start-rps {self.start_rps}: must be more than 0 for an exponential ramp.")
        if not self.start_rps <= self.end_rps < math.inf or self.end_rps == 0:
            raise ConfigError(f"--ramp-up-end-rps {self.end_rps}: must be more than --ramp-up-start-rps.")

    def plan(self, num: int, seed: int) -> Plan:
        """The starts of ``num`` requests; equal seeds give equal plans."""
        rates = [self._rate(i, num) for i in range(num)]
        if self.request_rate == math.inf and self.ramp_up is None:
            return Plan([0.0] * num, rates)
        random = np.random.default_rng(seed)
        scales = [1 / (rate * self.burstiness) for rate in rates[: num - 1]]
        gaps = random.gamma(self.burstiness, scales)
        if self.ramp_up is None and gaps.sum() > 0:
            gaps *= (num - 1) / self.request_rate / gaps.sum()
        return Plan([0.0, *np.cumsum(gaps).tolist()], rates)

    def _rate(self, index: int, num: int) -> float:
        """The rate in the middle of the time between this request and the next."""
        if self.ramp_up is None or self.start_rps is None or self.end_rps is None:
            return self.request_rate
        done = min(1.0, (index + 0.5) / max(1, num - 1))
        if self.ramp_up == "linear":
            return self.start_rps + (self.end_rps - self.start_rps) * done
        return float(self.start_rps * (self.end_rps / self.start_rps) ** done)
