"""Logits of the real models equal transformers', both dequantized from the same GGUF, in float32."""

from pathlib import Path

import pytest
import torch

from quire import LLM, SamplingParams

TEXT = "The quick brown fox jumps over the lazy dog. In 1969, two people walked on the Moon; café, naïve, 東京."


def scores_by_transformers(path: Path, ids: list[int]) -> torch.Tensor:
    """Log probability of each next token of ``ids``, and of the ten likeliest, by transformers."""
    import transformers

    folder = path.parent if path.is_file() else path
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=path.name, dtype=torch.float32)
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].log_softmax(-1)


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_logits_equal_transformers(model: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(model)
    llm = LLM(str(path), dtype="float32", max_model_len=256)
    ids = llm.get_tokenizer().encode(TEXT)
    expected = scores_by_transformers(path, ids)
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=10)
    output = llm.generate([ids], params, use_tqdm=False)[0]
    assert output.prompt_logprobs is not None
    for position, found in enumerate(output.prompt_logprobs[1:]):
        assert found is not None
        tokens = list(found)
        ours = torch.tensor([found[token].logprob for token in tokens])
        theirs = expected[position][tokens]
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-3), (position, ours, theirs)
