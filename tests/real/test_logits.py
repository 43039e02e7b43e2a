"""Logits of the real models beside transformers', which dequantizes the same GGUF, in float32."""

import functools
from pathlib import Path

import pytest
import torch

from quire import LLM, SamplingParams

TEXT = "The quick brown fox jumps over the lazy dog. In 1969, two people walked on the Moon; café, naïve, 東京."


def scores_by_transformers(path: Path, ids: list[int]) -> torch.Tensor:
    """[P, V] log probabilities of the token after each of ``ids``, config and weights read by transformers too."""
    import gguf
    import transformers
    from transformers.initialization import no_init_weights
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    # Random weights, and reading a vocabulary of 262,000 twice, take half a minute.
    with pytest.MonkeyPatch.context() as patch, no_init_weights():
        patch.setattr(gguf, "GGUFReader", functools.cache(gguf.GGUFReader))
        config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}  # tied to the embedding
    model.tie_weights()
    with torch.inference_mode():
        scores: torch.Tensor = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return scores


@pytest.fixture(scope="module", params=["smollm2", "gemma3"])
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def expected(path: Path) -> torch.Tensor:
    tokenizer = LLM(str(path), cpu_kernels="torch", max_model_len=256).get_tokenizer()
    return scores_by_transformers(path, tokenizer.encode(TEXT))


def pairs(path: Path, expected: torch.Tensor, cpu_kernels: str, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    """[P, 10] log probabilities of each token of the text and the ten best: ours, and transformers'."""
    llm = LLM(str(path), cpu_kernels=cpu_kernels, dtype=dtype, max_model_len=256)
    ids = llm.get_tokenizer().encode(TEXT)
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=10)
    output = llm.generate([ids], params, use_tqdm=False)[0]
    assert output.prompt_logprobs is not None
    ours, theirs = [], []
    for position, (token, found) in enumerate(zip(ids[1:], output.prompt_logprobs[1:], strict=True)):
        assert found is not None
        tokens = [token, *[other for other in found if other != token][:9]]
        ours.append([found[one].logprob for one in tokens])
        theirs.append(expected[position][tokens])
    return torch.tensor(ours), torch.stack(theirs)


def test_logits_equal_transformers(path: Path, expected: torch.Tensor) -> None:
    ours, theirs = pairs(path, expected, "torch", "float32")
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.native
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_of_native_products_are_near(path: Path, expected: torch.Tensor, dtype: str) -> None:
    """They round what they multiply blocks with, most of it to 8 bits."""
    ours, theirs = pairs(path, expected, "native", dtype)
    distance = (ours - theirs).abs()
    assert distance.mean() < 0.08
    assert (ours[:, 0].mean() - theirs[:, 0].mean()).abs() < 0.03  # of the text, that is the loss
