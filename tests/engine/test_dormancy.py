"""Sleep on a tiny model: what is computed afterwards, and what the system got back."""

from collections.abc import Callable
from pathlib import Path

import pytest

from quire import LLM, SamplingParams
from quire.core.errors import Asleep, Conflict, InvalidRequest, QuireError
from quire.core.step import StepOutput
from quire.kernels import platform

GREEDY = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, logprobs=1)
SEEDED = SamplingParams(temperature=0.9, seed=5, max_tokens=40, ignore_eos=True, logprobs=1)
PROMPTS = [[(5 * i + j) % 250 + 2 for j in range(30 + i)] for i in range(4)]


@pytest.mark.parametrize("kernels", ["torch", pytest.param("native", marks=pytest.mark.native)])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_same_tokens_after_sleep(tiny_checkpoint: Callable[[str], Path], kernels: str, level: int) -> None:
    """In the middle of their sequences, with nothing left of their KV: same tokens, same log probabilities."""
    llm = LLM(
        str(tiny_checkpoint("llama")), max_model_len=128, num_gpu_blocks_override=64, block_size=16, cpu_kernels=kernels
    )
    params = [GREEDY, SEEDED] * 2
    expected = [o.outputs[0] for o in llm.generate(PROMPTS, params, use_tqdm=False)]
    step = llm._client.step
    num_steps = 0

    def interrupted() -> list[StepOutput]:
        nonlocal num_steps
        num_steps += 1
        if num_steps == 11:
            llm.sleep(level)
            assert not any(len(output.token_ids) for output in step())
            llm.wake_up()
        return step()

    llm._client.step = interrupted  # type: ignore[method-assign]
    llm.reset_prefix_cache()
    found = [o.outputs[0] for o in llm.generate(PROMPTS, params, use_tqdm=False)]
    assert num_steps > 11
    assert [(o.token_ids, o.logprobs) for o in found] == [(o.token_ids, o.logprobs) for o in expected]
    assert llm.check().error == "" and llm.check().num_held_blocks == 0


def test_offline_sleep(tiny_checkpoint: Callable[[str], Path]) -> None:
    llm = LLM(str(tiny_checkpoint("llama")), max_model_len=128, num_gpu_blocks_override=64)
    before = llm.generate([PROMPTS[0]], GREEDY, use_tqdm=False)[0].outputs[0].token_ids
    llm.sleep()
    assert llm.is_sleeping
    with pytest.raises(Asleep):
        llm.generate([PROMPTS[0]], GREEDY, use_tqdm=False)
    with pytest.raises(InvalidRequest, match="level"):
        llm.sleep(7)
    with pytest.raises(InvalidRequest, match="mode"):
        llm.sleep(mode="never")  # type: ignore[arg-type]
    with pytest.raises(Conflict):
        llm.wake_up(["scheduling"])
    llm.wake_up(["kv_cache"])
    assert not llm.is_sleeping
    output = llm.generate([PROMPTS[0]], GREEDY, use_tqdm=False)[0]
    assert output.outputs[0].token_ids == before
    assert output.num_cached_tokens == 0
    assert llm.reset_prefix_cache()


def test_sleep_gives_the_memory_of_the_kv_cache_back(tiny_checkpoint: Callable[[str], Path]) -> None:
    llm = LLM(str(tiny_checkpoint("llama")), num_gpu_blocks_override=9000, block_size=32, max_model_len=512)
    kv = llm._client._engine.executor._runner.kv  # type: ignore[attr-defined]
    size = 0
    for pair in kv.layers:
        for pages in pair:
            pages.fill_(1)
            size += pages.nbytes
    addresses = [pages.data_ptr() for pair in kv.layers for pages in pair]
    assert size > 100 * 2**20
    before = platform.resident_bytes()
    llm.sleep(1)
    assert before - platform.resident_bytes() > 0.95 * size
    assert [pages.data_ptr() for pair in kv.layers for pages in pair] == addresses
    assert not any(pages.any() for pair in kv.layers for pages in pair)
    llm.wake_up()
    assert llm.generate([PROMPTS[0]], GREEDY, use_tqdm=False)[0].finished


@pytest.mark.parametrize("kernels", ["torch", pytest.param("native", marks=pytest.mark.native)])
def test_sleep_gives_the_memory_of_the_weights_back(
    random_checkpoint: Callable[..., Path], tiny_checkpoint: Callable[[str], Path], kernels: str
) -> None:
    words = str(tiny_checkpoint("llama"))
    path = random_checkpoint("Llama", hidden_size=480, intermediate_size=2400, num_hidden_layers=4)
    size = (path / "model.safetensors").stat().st_size
    assert size > 40 * 2**20
    llm = LLM(str(path), max_model_len=128, num_gpu_blocks_override=64, cpu_kernels=kernels, tokenizer=words)
    expected = llm.generate(PROMPTS, GREEDY, use_tqdm=False)
    before = platform.resident_bytes()
    llm.sleep(2)
    assert before - platform.resident_bytes() > 0.9 * size
    llm.wake_up()
    found = llm.generate(PROMPTS, GREEDY, use_tqdm=False)
    assert [o.outputs[0].token_ids for o in found] == [o.outputs[0].token_ids for o in expected]


def test_weights_that_are_gone(random_checkpoint: Callable[..., Path], tiny_checkpoint: Callable[[str], Path]) -> None:
    """A wake-up that fails says why, leaves the engine asleep, and may be tried again."""
    path = random_checkpoint("Llama")
    words = str(tiny_checkpoint("llama"))
    llm = LLM(str(path), max_model_len=128, num_gpu_blocks_override=64, tokenizer=words)
    llm.sleep(2)
    (path / "model.safetensors").rename(path / "elsewhere")
    with pytest.raises(QuireError, match="safetensors"):
        llm.wake_up()
    assert llm.is_sleeping
    (path / "elsewhere").rename(path / "model.safetensors")
    llm.wake_up()
    assert llm.generate([PROMPTS[0]], GREEDY, use_tqdm=False)[0].finished
