"""Logits of the real models equal transformers', both dequantized from the same GGUF, in float32."""

from pathlib import Path

import pytest
import torch

from quire import LLM, SamplingParams

TEXT = "The quick brown fox jumps over the lazy dog. In 1969, two people walked on the Moon; café, naïve, 東京."


def scores_by_transformers(path: Path, ids: list[int]) -> torch.Tensor:
    """[P, V] log probabilities of the token after each of ``ids``, config and weights read by transformers too."""
    import transformers
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

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
