"""When requests start: rates, bursts, ramps, seeds."""

import math

import numpy as np
import pytest

from quire.bench.arrivals import Arrivals
from quire.core.errors import ConfigError


def gaps_of(num: int = 2000, seed: int = 1, **settings: object) -> np.ndarray:
    starts = Arrivals(**settings).plan(num, seed).starts_s  # type: ignore[arg-type]
    assert len(starts) == num and starts[0] == 0
    return np.diff(starts)


def test_all_at_once() -> None:
    plan = Arrivals().plan(3, 0)
    assert plan.starts_s == [0, 0, 0]
    assert plan.rates == [math.inf] * 3


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_follow_a_gamma_distribution(burstiness: float) -> None:
    gaps = gaps_of(request_rate=50, burstiness=burstiness)
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(1 / 50)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.1)


def test_a_run_takes_as_long_as_the_rate_says() -> None:
    assert Arrivals(request_rate=4).plan(9, 5).starts_s[-1] == pytest.approx(2.0)
    assert Arrivals(request_rate=4).plan(1, 5).starts_s == [0.0]


def test_seeds() -> None:
    arrivals = Arrivals(request_rate=4)
    assert arrivals.plan(9, 5) == arrivals.plan(9, 5)
    assert arrivals.plan(9, 5) != arrivals.plan(9, 6)


@pytest.mark.parametrize(("ramp", "middle"), [("linear", 55), ("exponential", 31.6)])
def test_ramps(ramp: str, middle: float) -> None:
    arrivals = Arrivals(ramp_up=ramp, start_rps=10, end_rps=100, burstiness=400)  # type: ignore[arg-type]
    plan = arrivals.plan(1001, 0)
    assert plan.rates[0] == pytest.approx(10, rel=0.01) and plan.rates[-1] == 100
    assert plan.rates[500] == pytest.approx(middle, rel=0.01)
    gaps = np.diff(plan.starts_s)
    for part in (slice(0, 50), slice(475, 525), slice(950, 1000)):
        assert gaps[part].mean() == pytest.approx(np.mean(1 / np.array(plan.rates[part])), rel=0.05)


def test_a_linear_ramp_may_begin_with_nothing() -> None:
    plan = Arrivals(ramp_up="linear", start_rps=0, end_rps=10).plan(20, 0)
    assert all(math.isfinite(start) for start in plan.starts_s)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"request_rate": 0}, "--request-rate 0: must be more than 0"),
        ({"request_rate": math.nan}, "--request-rate nan"),
        ({"burstiness": 0}, "--burstiness 0"),
        ({"burstiness": math.inf}, "--burstiness inf"),
        ({"start_rps": 1}, "need --ramp-up-strategy"),
        ({"ramp_up": "linear"}, "needs --ramp-up-start-rps"),
        ({"ramp_up": "linear", "start_rps": 1, "end_rps": 2, "request_rate": 3}, "exclude each other"),
        ({"ramp_up": "linear", "start_rps": 3, "end_rps": 2}, "--ramp-up-end-rps 2"),
        ({"ramp_up": "linear", "start_rps": 0, "end_rps": 0}, "--ramp-up-end-rps 0"),
        ({"ramp_up": "exponential", "start_rps": 0, "end_rps": 2}, "--ramp-up-start-rps 0"),
    ],
)
def test_what_no_requests_can_follow(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Arrivals(**settings)  # type: ignore[arg-type]
