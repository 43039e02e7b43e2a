"""Keys and values in 8 bits beside those in the model's own type: what a real model says of a text of some length."""

from pathlib import Path

import pytest
import torch

from quire import LLM, SamplingParams

TEXT = (
    "The sea is never quite still. Even on the calmest morning, when the harbour lies like glass and the gulls stand "
    "idle on the wall, a slow breath passes under the boats and lifts them, one after another, as a sleeper's chest "
    "lifts a hand. Fishermen know it. They say that whoever listens long enough can tell by that breath what the wind "
    "will do before noon, and whether to mend nets or to set sail. In 1969, two people walked on the Moon; in Köln and "
    "東京 people watched them. A prime number has exactly two divisors: 2, 3, 5, 7, 11 and 13 are the first of them. "
) * 2


def scores(path: Path, cpu_kernels: str, kv_cache_dtype: str) -> torch.Tensor:
    """[P] log probabilities of the text's tokens, of a model in float32."""
    llm = LLM(str(path), cpu_kernels=cpu_kernels, dtype="float32", kv_cache_dtype=kv_cache_dtype, max_model_len=512)
    ids = llm.get_tokenizer().encode(TEXT)
    output = llm.generate([ids], SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0), use_tqdm=False)[0]
    assert output.prompt_logprobs is not None
    found = zip(ids[1:], output.prompt_logprobs[1:], strict=True)
    return torch.tensor([position[token].logprob for token, position in found if position is not None])


@pytest.mark.parametrize("cpu_kernels", ["torch", pytest.param("native", marks=pytest.mark.native)])
def test_int8_says_nearly_the_same(smollm2: Path, cpu_kernels: str) -> None:
    """Native products of GGUF's blocks round activations, which makes a little of every small difference."""
    whole, rounded = (scores(smollm2, cpu_kernels, dtype) for dtype in ("auto", "int8"))
    assert (rounded - whole).abs().mean() < (0.02 if cpu_kernels == "torch" else 0.06)
    assert (rounded.mean() - whole.mean()).abs() < (0.005 if cpu_kernels == "torch" else 0.02)  # that is the loss


def test_int8_knows_the_capital_of_france(smollm2: Path) -> None:
    llm = LLM(str(smollm2), kv_cache_dtype="int8", max_model_len=256)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    assert "Paris" in llm.chat(chat, SamplingParams(temperature=0, max_tokens=16), use_tqdm=False)[0].outputs[0].text
