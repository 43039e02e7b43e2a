"""Sampling parameters are valid from birth, and say what is wrong with the others."""

import math

import msgspec
import pytest

from quire.core.errors import InvalidRequest
from quire.core.sampling_params import SamplingParams

BAD = [
    ("n", [0, -1, 129, 2**31, 2**63, 1.5, True, "5"]),
    ("temperature", [-0.1, 2.1, math.nan, math.inf, -math.inf, "1", True, 1e308]),
    ("top_p", [0, -0.0, 1.01, math.nan, "0.5"]),
    ("top_k", [-2, 2**31, 0.5, True]),
    ("min_p", [-0.01, 1.01, math.nan]),
    ("presence_penalty", [-2.1, 2.1, math.nan]),
    ("frequency_penalty", [-2.1, 2.1, math.inf]),
    ("repetition_penalty", [0, -1, math.nan, math.inf]),
    ("seed", [2**63, -(2**63) - 1, 0.5, "1"]),
    ("max_tokens", [0, -1, 2**31, 1.0, True]),
    ("min_tokens", [-1, 17, 2**31]),
    ("logprobs", [-2, 2**31, 1.5]),
    ("prompt_logprobs", [-2, 1.5]),
    ("truncate_prompt_tokens", [0, -2, 1.5]),
    ("stop", [[""], ["a"] * 17, ["a" * 1025], [1]]),
    ("stop_token_ids", [[-1], [2**31], ["a"], [True], list(range(129))]),
    ("allowed_token_ids", [[], [-1], [1.5]]),
    ("bad_words", [[""], ["a"] * 129]),
    ("logit_bias", [{"x": 1}, {-1: 1}, {"1": 1, "01": -1}, {1: 1, "1": 1}, {i: 0 for i in range(1025)}]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD for value in values])
def test_what_is_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        SamplingParams(**{name: value})
    assert refused.value.param == f"$.{name}"
    assert name in refused.value.message


@pytest.mark.parametrize("amount", [101, -101, math.nan, "1"])
def test_a_bias_out_of_range_is_refused_by_its_token(amount: object) -> None:
    with pytest.raises(InvalidRequest, match=r"logit_bias\.7 is ") as refused:
        SamplingParams(logit_bias={6: 1, 7: amount})
    assert refused.value.param == "$.logit_bias.7"


def test_the_limits_themselves_are_allowed() -> None:
    params = SamplingParams(
        n=128, temperature=2, top_p=1, top_k=2**31 - 1, min_p=1, seed=-(2**63), max_tokens=1, min_tokens=1
    )
    assert params.n == 128


def test_forms_that_mean_the_same() -> None:
    assert SamplingParams(stop="a").stop == ("a",) == SamplingParams(stop=["a"]).stop
    assert SamplingParams(stop=None).stop == ()
    assert SamplingParams(top_k=-1).top_k == 0
    assert SamplingParams(seed=-1).seed is None
    assert SamplingParams(logprobs=True).logprobs == 1
    assert SamplingParams(logit_bias={"7": 1}).logit_bias == {7: 1.0}
    assert SamplingParams(stop_token_ids=[3, 3, 1]).stop_token_ids == (3, 1)
    assert SamplingParams(logprob_token_ids=[3, 3, 1]) == SamplingParams(logprob_token_ids=(3, 1), logprobs=0)
    assert SamplingParams(logprob_token_ids=None) == SamplingParams()
    assert SamplingParams(logprob_token_ids=[3], logprobs=2).logprobs == 2


def test_frozen_and_replaced() -> None:
    params = SamplingParams(temperature=0)
    assert params.is_greedy
    with pytest.raises(AttributeError):
        params.temperature = 1.0  # type: ignore[misc]
    assert not params.replace(temperature=1.0).is_greedy
    with pytest.raises(InvalidRequest):
        params.replace(top_p=3)


def test_stop_strings_need_text() -> None:
    with pytest.raises(InvalidRequest, match="detokenize"):
        SamplingParams(stop="x", detokenize=False)


def test_it_is_a_value_error_for_scripts() -> None:
    with pytest.raises(ValueError, match="temperature"):
        SamplingParams(temperature=-1)


def test_crosses_as_msgpack() -> None:
    params = SamplingParams(stop=["a"], logit_bias={1: 2.0}, bad_words=["x"])
    data = msgspec.msgpack.encode(params)
    assert msgspec.msgpack.decode(data, type=SamplingParams) == params
