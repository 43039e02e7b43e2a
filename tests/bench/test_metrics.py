"""The arithmetic, on times that are made up: exact numbers."""

from collections.abc import Callable

import numpy as np
import pytest

from quire.bench.answer import Answer
from quire.bench.metrics import statistic, summarize, tokens_by_second, tpot_s

Make = Callable[..., Answer]


@pytest.fixture
def answers(made_up: Make) -> list[Answer]:
    """Three of four requests were answered; the second in pieces of two tokens."""
    failed = made_up(100.0, 101.0, [1.0], 2)
    failed.error = "HTTP status 500: no"
    return [
        made_up(100.0, 100.5, [0.25, 0.25, 0.5], 4),
        made_up(101.0, 101.25, [0.5, 0.5], 6, prompt=20),
        failed,
        made_up(102.0, 103.0, [], 1, queued_s=101.5),
    ]


def summary_of(answers: list[Answer], **changes: object):  # type: ignore[no-untyped-def]
    settings = {"start_s": 100.0, "duration_s": 4.0, "percentiles": [50, 99.9], "goodput_ms": {}}
    return summarize(answers, **settings | changes)  # type: ignore[arg-type]


def test_counts_and_rates(answers: list[Answer]) -> None:
    found = summary_of(answers)
    assert (found.completed, found.failed, found.duration_s) == (3, 1, 4.0)
    assert (found.total_input, found.total_output) == (40, 11)
    assert found.request_throughput == 3 / 4
    assert found.output_throughput == 11 / 4
    assert found.total_token_throughput == 51 / 4
    assert found.request_goodput is None
    assert found.tokens_per_chunk == 11 / (4 + 3 + 1)


def test_latencies(answers: list[Answer]) -> None:
    found = summary_of(answers).statistics
    assert found["ttft"].mean == pytest.approx((500 + 250 + 1000) / 3)
    assert (found["ttft"].median, found["ttft"].percentiles["50"]) == (500, 500)
    assert found["tpot"].mean == pytest.approx((1000 / 3 + 1000 / 5) / 2)  # a request of one token has none
    assert found["itl"].mean == 400  # five gaps between pieces
    assert found["e2el"].mean == pytest.approx((1500 + 1250 + 1000) / 3)
    assert found["client_queue_time"].mean == pytest.approx(500 / 3)
    assert found["e2el_including_client_queue"].mean == pytest.approx((1500 + 1250 + 1500) / 3)


def test_a_request_is_a_good_one_if_it_keeps_every_limit(answers: list[Answer]) -> None:
    assert summary_of(answers, goodput_ms={"ttft": 500}).request_goodput == 2 / 4
    assert summary_of(answers, goodput_ms={"ttft": 500, "tpot": 300}).request_goodput == 1 / 4
    assert summary_of(answers, goodput_ms={"e2el": 1000}).request_goodput == 1 / 4
    assert summary_of(answers, goodput_ms={"tpot": 0}).request_goodput == 1 / 4  # nothing to wait for


def test_the_best_second_and_the_fullest_moment(answers: list[Answer]) -> None:
    done = [answer for answer in answers if answer.is_success]
    # tokens at 100.5 .75 | 101.0 .25 (two) .5 .75 (two) | 102.25 (two) | 103.0
    assert tokens_by_second(done, 100.0, 4.0).tolist() == [2, 6, 2, 1, 0]
    found = summary_of(answers)
    assert (found.max_output_tokens_per_s, found.max_concurrent_requests) == (6, 2)


def test_back_to_back_is_not_at_once(made_up: Make) -> None:
    one_by_one = [made_up(float(i), i + 0.5, [0.5], 2) for i in range(3)]
    assert summary_of(one_by_one, start_s=0.0).max_concurrent_requests == 1


def test_statistics() -> None:
    values = [0.001 * i for i in range(1, 11)]
    found = statistic(values, [0, 25, 90, 99.9])
    assert found.mean == pytest.approx(5.5)
    assert found.median == pytest.approx(5.5)
    assert found.std == pytest.approx(float(np.std(range(1, 11))))
    assert found.percentiles == pytest.approx({"0": 1, "25": 3.25, "90": 9.1, "99.9": 9.991})


def test_nothing_measured_is_zero() -> None:
    found = summary_of([])
    assert (found.completed, found.output_throughput, found.tokens_per_chunk) == (0, 0, 0)
    assert found.statistics["itl"].percentiles == {"50": 0, "99.9": 0}


def test_tokens_and_pieces(made_up: Make) -> None:
    answer = made_up(0.0, 1.0, [1.0, 1.0], 9)
    assert tpot_s(answer) == 2.0 / 8
    answer.num_output_tokens = None
    assert tpot_s(answer) == 2.0 / 2
