"""Beams are transformers' beams: the same hypotheses in the same order with the same scores."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from quire import LLM, BeamSearchParams, SamplingParams
from quire.core.errors import InvalidRequest, PromptTooLong
from quire.core.outputs import BeamSearchSequence

PROMPTS = [[20, 31, 42], [*range(60, 90)], [300] * 17]
LENGTH = 12


class Oracle:
    """The same checkpoint in transformers."""

    def __init__(self, folder: Path) -> None:
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def beams(
        self, prompt: list[int], width: int, eos: list[int] | None, **options: Any
    ) -> list[tuple[list[int], float]]:
        """(generated tokens, score), best first."""
        found = self.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            generation_config=transformers.GenerationConfig(
                num_beams=width,
                num_return_sequences=width,
                do_sample=False,
                early_stopping=False,
                pad_token_id=999_999,
                eos_token_id=eos,
                return_dict_in_generate=True,
                output_scores=True,
                **{"max_new_tokens": LENGTH} | options,
            ),
        )
        rows = [[token for token in row if token != 999_999] for row in found.sequences[:, len(prompt) :].tolist()]
        return list(zip(rows, found.sequences_scores.tolist(), strict=True))


@pytest.fixture(scope="module")
def oracle(tiny_checkpoint: Callable[[str], Path]) -> Oracle:
    return Oracle(tiny_checkpoint("llama"))


@pytest.fixture(scope="module")
def eos(oracle: Oracle) -> list[int]:
    """Tokens that beams meet early, so that hypotheses end and others overtake them."""
    rows = [row for prompt in PROMPTS for row, _ in oracle.beams(prompt, 4, None)]
    return sorted({rows[0][5], rows[2][2], rows[6][3]})


@pytest.fixture(scope="module")
def llm(tiny_checkpoint: Callable[[str], Path], eos: list[int], tmp_path_factory: pytest.TempPathFactory) -> LLM:
    folder = tmp_path_factory.mktemp("beams") / "llama"
    shutil.copytree(tiny_checkpoint("llama"), folder)
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(settings | {"eos_token_id": eos}))
    return LLM(str(folder), max_model_len=256, num_gpu_blocks_override=100)


def search(llm: LLM, **settings: Any) -> list[list[BeamSearchSequence]]:
    params = BeamSearchParams(**{"max_tokens": LENGTH, "include_stop_str_in_output": True} | settings)
    found = [output.sequences for output in llm.beam_search(PROMPTS, params)]
    assert llm.check().error == "" and llm.check().num_held_blocks == 0
    return found


def assert_equal(found: list[list[BeamSearchSequence]], expected: list[list[tuple[list[int], float]]]) -> None:
    for prompt, beams, wanted in zip(PROMPTS, found, expected, strict=True):
        assert [beam.tokens[len(prompt) :] for beam in beams] == [tokens for tokens, _ in wanted]
        assert [beam.score for beam in beams] == pytest.approx([score for _, score in wanted], rel=1e-4)


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.5, -1.0])
@pytest.mark.parametrize("width", [2, 3, 5, 8])
def test_beams_are_those_of_transformers(
    llm: LLM, oracle: Oracle, eos: list[int], width: int, length_penalty: float
) -> None:
    found = search(llm, beam_width=width, length_penalty=length_penalty)
    expected = [oracle.beams(prompt, width, eos, length_penalty=length_penalty) for prompt in PROMPTS]
    assert_equal(found, expected)
    if length_penalty <= 1:
        assert "stop" in {beam.finish_reason for beams in found for beam in beams}


@pytest.mark.parametrize("width", [2, 6])
def test_without_an_end_of_sequence(llm: LLM, oracle: Oracle, width: int) -> None:
    found = search(llm, beam_width=width, ignore_eos=True)
    assert_equal(found, [oracle.beams(prompt, width, None) for prompt in PROMPTS])
    assert {beam.finish_reason for beams in found for beam in beams} == {"length"}


def test_stop_tokens_end_hypotheses_as_the_models_own_do(llm: LLM, oracle: Oracle, eos: list[int]) -> None:
    found = search(llm, beam_width=3, ignore_eos=True, stop_token_ids=tuple(eos))
    assert_equal(found, [oracle.beams(prompt, 3, eos) for prompt in PROMPTS])
    named = {beam.stop_reason for beams in found for beam in beams if beam.finish_reason == "stop"}
    assert named and named <= set(eos)


def test_no_end_before_min_tokens(llm: LLM, oracle: Oracle, eos: list[int]) -> None:
    found = search(llm, beam_width=4, min_tokens=7)
    assert_equal(found, [oracle.beams(prompt, 4, eos, min_new_tokens=7) for prompt in PROMPTS])


def test_one_beam_is_the_greedy_continuation(llm: LLM, oracle: Oracle) -> None:
    (beam,), *_ = search(llm, beam_width=1, ignore_eos=True)
    greedy = llm.generate(
        [PROMPTS[0]], SamplingParams(temperature=0, max_tokens=LENGTH, ignore_eos=True), use_tqdm=False
    )
    assert beam.tokens[3:] == list(greedy[0].outputs[0].token_ids)


def test_a_stop_string_ends_a_hypothesis(llm: LLM) -> None:
    """As an end-of-sequence token would; the text ends before it."""
    (free, *_), *_ = search(llm, beam_width=3, ignore_eos=True, include_stop_str_in_output=False)
    tokenizer = llm.get_tokenizer()
    whole = tokenizer.decode(free.tokens)
    prompt = tokenizer.decode(PROMPTS[0])
    assert free.text == whole and whole.startswith(prompt)
    stop = whole[len(prompt) + 4 : len(prompt) + 7]
    found, *_ = search(llm, beam_width=3, ignore_eos=True, include_stop_str_in_output=False, stop=stop)
    stopped = [beam for beam in found if beam.stop_reason == stop]
    assert stopped
    for beam in found:
        assert (beam.stop_reason == stop) == (beam.finish_reason == "stop")
        text = tokenizer.decode(beam.tokens)
        assert beam.text is not None and stop not in beam.text[len(prompt) :]
        if beam.finish_reason == "stop":
            assert text.startswith(beam.text + stop)
            assert stop not in tokenizer.decode(beam.tokens[:-1])[len(prompt) :]
    shown, *_ = search(llm, beam_width=3, ignore_eos=True, stop=stop)
    assert any(beam.text is not None and beam.text.endswith(stop) for beam in shown)


def test_what_is_told_of_a_beam(llm: LLM, eos: list[int]) -> None:
    for beams, prompt in zip(search(llm, beam_width=4, include_stop_str_in_output=False), PROMPTS, strict=True):
        assert [beam.score for beam in beams] == sorted((beam.score for beam in beams), reverse=True)
        for beam in beams:
            generated = beam.tokens[len(prompt) :]
            assert not set(generated) & set(eos)
            assert len(beam.logprobs) == len(generated) + (beam.finish_reason == "stop")
            assert beam.cum_logprob == pytest.approx(beam.score * len(beam.logprobs))
            for token, entries in zip(generated, beam.logprobs, strict=False):
                assert token in entries


def test_prompts_a_few_at_a_time(llm: LLM) -> None:
    params = BeamSearchParams(beam_width=3, max_tokens=6)
    together = llm.beam_search(PROMPTS, params)
    assert llm.beam_search(PROMPTS, params, concurrency_limit=2) == together
    assert llm.beam_search([{"prompt_token_ids": PROMPTS[1]}], params) == together[1:2]
    assert llm.beam_search([], params) == []
    text = llm.get_tokenizer().decode(PROMPTS[1])
    assert llm.beam_search(text, params)[0].sequences[0].text.startswith(text)  # type: ignore[union-attr]


def test_a_search_ends_where_the_context_does(llm: LLM) -> None:
    params = BeamSearchParams(beam_width=2, max_tokens=None, ignore_eos=True)
    (output,) = llm.beam_search([[30] * 253], params)
    assert [len(beam.tokens) for beam in output.sequences] == [256, 256]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beam_width": 0}, "beam_width"),
        ({"beam_width": 129}, "beam_width"),
        ({"temperature": 0.5}, "temperature"),
        ({"length_penalty": 11}, "length_penalty"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ("",)}, "stop"),
    ],
)
def test_settings_have_bounds(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        BeamSearchParams(**{"beam_width": 2, "max_tokens": 2} | changes)


def test_what_cannot_be_searched(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match="--max-logprobs"):
        llm.beam_search(PROMPTS, BeamSearchParams(beam_width=20, max_tokens=2))
    with pytest.raises(PromptTooLong):
        llm.beam_search([[5] * 256], BeamSearchParams(beam_width=2, max_tokens=2))
