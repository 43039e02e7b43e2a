"""Sampling that stays on the device chooses what the Sampler chooses, step after step."""

from typing import Any

import numpy as np
import pytest
import torch

from quire.core.sampling_params import SamplingParams
from quire.core.step import Admission
from quire.decoding.device import DeviceSampler, Flags
from quire.decoding.random import uniforms
from quire.decoding.sampler import Sampler
from quire.kernels.triton import slots as kernels
from quire.kernels.triton.sampling import TritonSampling

CPU = torch.device("cpu")
SIZE = 97
WISHES: tuple[dict[str, Any], ...] = (
    dict(temperature=0.0),
    dict(temperature=0.8, top_p=0.9, frequency_penalty=0.7, presence_penalty=0.3),
    dict(temperature=1.0, repetition_penalty=1.3, min_p=0.02),
    dict(temperature=0.0, repetition_penalty=1.9),
    dict(temperature=1.2, top_k=9),
)


def admission(slot: int, *, seed: int = 0, output: tuple[int, ...] = (), **params: Any) -> Admission:
    prompt = (1, 2, 3, 50)
    return Admission(
        slot=slot,
        handle=slot,
        tokens=np.array([*prompt, *output], np.int32),
        prompt_len=len(prompt),
        params=SamplingParams(**{"max_tokens": None, **params}),
        seed=seed,
        stop_token_ids=(),
        bad_word_ids=(),
        num_computed_tokens=0,
    )


def test_equals_the_sampler_step_after_step() -> None:
    device, host = DeviceSampler(8, SIZE, CPU, TritonSampling()), Sampler(8, SIZE, CPU)
    for slot, wish in enumerate(WISHES):
        one = admission(slot, seed=2**64 - 1 - slot, output=(7,) * slot, **wish)
        assert device.admit(one)
        host.admit(one)
    device.flush()
    slots = np.array([3, 1, 0, 4, 2])
    positions = 4 + slots
    for step in range(4):
        logits = 2 * torch.randn(5, SIZE)
        expected = host.sample(logits.clone(), slots, positions + step).token_ids
        where, places = torch.from_numpy(slots), torch.from_numpy(positions + step)
        tokens = device.sample(logits, where, places, device.flags(slots))
        assert tokens.tolist() == expected.tolist()


def test_a_slot_that_is_taken_again_begins_anew() -> None:
    device, host = DeviceSampler(2, SIZE, CPU, TritonSampling()), Sampler(2, SIZE, CPU)
    slots, position = torch.tensor([0]), torch.tensor([9])
    for wish in (WISHES[1], WISHES[4], WISHES[1]):
        one = admission(0, seed=3, **wish)
        assert device.admit(one)
        host.admit(one)
        device.flush()
        logits = torch.randn(1, SIZE)
        expected = host.sample(logits.clone(), slots.numpy(), position.numpy()).token_ids
        assert device.sample(logits, slots, position, device.flags(slots.numpy())).tolist() == expected.tolist()
    device.release(np.array([0]))
    device.flush()
    assert not device.holds(np.array([0, 1])).any()
    assert device.flags(np.array([0])) == Flags(False, False, False)
    everything = Flags(True, True, True)
    assert device.sample(logits, slots, position, everything).tolist() == logits.argmax(1).tolist()


def test_flags_say_what_the_rows_want_together() -> None:
    device = DeviceSampler(8, SIZE, CPU, TritonSampling())
    for slot, wish in enumerate((*WISHES, dict(temperature=0.0, top_k=5), dict(logprobs=3))):
        assert device.admit(admission(slot, **wish))
    assert device.flags(np.array([0, 5])) == Flags(False, False, False)
    assert device.flags(np.array([6])) == Flags(True, False, False)
    assert device.flags(np.array([0, 4])) == Flags(True, True, False)
    assert device.flags(np.array([3])) == Flags(False, False, True)
    assert device.num_logprobs(np.array([0, 6])).tolist() == [-2, 3]
    assert device.holds(np.arange(8)).tolist() == [True] * 7 + [False]


@pytest.mark.parametrize(
    "wish",
    (
        dict(logit_bias={5: 1.0}),
        dict(allowed_token_ids=(4, 5)),
        dict(min_tokens=2),
        dict(repetition_penalty=1.1, penalty_window=8),
    ),
    ids=str,
)
def test_rules_that_need_the_host_are_left_to_it(wish: dict[str, Any]) -> None:
    device = DeviceSampler(2, SIZE, CPU, TritonSampling())
    assert device.admit(admission(0))
    assert not device.admit(admission(0, **wish))
    assert not device.holds(np.array([0]))[0]


def test_uniform_numbers_are_those_of_the_host() -> None:
    device = DeviceSampler(300, SIZE, CPU, TritonSampling())
    seeds = np.random.default_rng(0).integers(0, 2**64, 300, dtype=np.uint64)
    for slot, seed in enumerate(seeds.tolist()):
        device.admit(admission(slot, seed=seed))
    device.flush()
    slots = np.random.default_rng(1).permutation(300)
    positions = np.random.default_rng(2).integers(0, 2**20, 300)
    where, places = torch.from_numpy(slots), torch.from_numpy(positions)
    found = kernels.wishes(device._tables, where, places, has_random=True, has_cut=True)
    assert found.uniforms.tolist() == uniforms(seeds[slots], positions).tolist()
    assert found.top_k.tolist() == [SIZE] * 300 and found.temperature.tolist() == [1.0] * 300


def test_unsound_rows_are_counted_nowhere() -> None:
    device = DeviceSampler(2, SIZE, CPU, TritonSampling())
    device.admit(admission(0, **WISHES[1]))
    device.flush()
    logits, slots = torch.randn(1, SIZE), torch.tensor([0])
    logits[0, 5] = torch.nan
    assert device.sample(logits, slots, slots + 4, device.flags(np.array([0]))).tolist() == [-1]
    assert not device._penalties.tables[0].any()
