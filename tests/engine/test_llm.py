"""The offline face, on a tiny model: every way to ask, every way to stop."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire import LLM, SamplingParams
from quire.core import signals
from quire.core.errors import ConfigError, GenerationFailed, InvalidRequest, PromptTooLong
from quire.core.sampling_params import BeamSearchParams, RepetitionDetection
from quire.core.step import SchedulerOutput
from quire.engine.executor.executor import Ticket

PROMPT = "The quick brown fox"
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(tiny_checkpoint: Callable[[str], Path]) -> LLM:
    return LLM(str(tiny_checkpoint("llama")), max_model_len=256, num_gpu_blocks_override=100)


def one(llm: LLM, params: SamplingParams, prompt: object = PROMPT):  # type: ignore[no-untyped-def]
    output = llm.generate(prompt, params, use_tqdm=False)[0]  # type: ignore[arg-type]
    assert llm.check().error == ""
    assert llm.check().num_held_blocks == 0
    return output.outputs[0]


def test_every_form_of_prompt(llm: LLM) -> None:
    ids = llm.get_tokenizer().encode(PROMPT)
    forms = [PROMPT, ids, {"prompt": PROMPT}, {"prompt_token_ids": ids}, {"prompt": PROMPT, "cache_salt": "x"}]
    outputs = llm.generate(forms, GREEDY, use_tqdm=False)
    assert len({tuple(output.outputs[0].token_ids) for output in outputs}) == 1
    assert [output.prompt for output in outputs] == [PROMPT, None, PROMPT, None, PROMPT]
    assert all(output.prompt_token_ids == ids and output.finished for output in outputs)
    assert outputs[-1].num_cached_tokens == 0  # its salt is its own
    assert llm.generate([], GREEDY, use_tqdm=False) == []


def test_outputs_come_in_the_order_of_prompts(llm: LLM) -> None:
    prompts = [[i] * 5 for i in range(10, 18)]
    params = [GREEDY.replace(max_tokens=20 - 2 * i) for i in range(8)]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    assert [output.prompt_token_ids for output in outputs] == prompts
    assert [len(output.outputs[0].token_ids) for output in outputs] == [p.max_tokens for p in params]


def test_chat_renders_the_template(llm: LLM) -> None:
    output = llm.chat([{"role": "user", "content": "Hello"}], GREEDY, use_tqdm=False)[0]
    text = llm.get_tokenizer().decode(output.prompt_token_ids, skip_special_tokens=False)
    assert text.endswith("<|user|>Hello<|end|><|assistant|>")
    several = llm.chat([[{"role": "user", "content": "Hello"}]] * 2, GREEDY, use_tqdm=False)
    assert [list(o.outputs[0].token_ids) for o in several] == [list(output.outputs[0].token_ids)] * 2


@pytest.mark.parametrize("priority", [None, 3, [2, 1]])
def test_priorities_are_for_all_or_for_each(llm: LLM, priority: int | list[int] | None) -> None:
    assert len(llm.generate([[5], [6]], GREEDY, use_tqdm=False, priority=priority)) == 2
    talk = [{"role": "user", "content": "Hello"}]
    assert len(llm.chat([talk, talk], GREEDY, use_tqdm=False, priority=priority)) == 2


@pytest.mark.parametrize("priority", [[], [1], [1, 2, 3]])
def test_priorities_of_another_number(llm: LLM, priority: list[int]) -> None:
    with pytest.raises(InvalidRequest, match=rf"2 prompts, and {len(priority)} in priority") as refusal:
        llm.generate([[5], [6]], GREEDY, use_tqdm=False, priority=priority)
    assert refusal.value.param == "$.priority"


def test_length(llm: LLM) -> None:
    found = one(llm, GREEDY)
    assert (len(found.token_ids), found.finish_reason, found.stop_reason) == (24, "length", None)
    assert found.text == llm.get_tokenizer().decode(list(found.token_ids))


def test_stop_token(llm: LLM) -> None:
    free = list(one(llm, GREEDY).token_ids)
    stop = next(token for i, token in enumerate(free) if i > 4 and free.index(token) == i)
    cut = one(llm, GREEDY.replace(stop_token_ids=(stop,)))
    assert list(cut.token_ids) == free[: free.index(stop) + 1]
    assert (cut.finish_reason, cut.stop_reason) == ("stop", stop)
    tokenizer = llm.get_tokenizer()
    assert cut.text == tokenizer.decode(list(cut.token_ids)[:-1])
    shown = one(llm, GREEDY.replace(stop_token_ids=(stop,), include_stop_str_in_output=True))
    assert shown.text == tokenizer.decode(list(cut.token_ids))
    late = one(llm, GREEDY.replace(stop_token_ids=(stop,), min_tokens=free.index(stop) + 2))
    assert len(late.token_ids) >= free.index(stop) + 2


def test_stop_string(llm: LLM) -> None:
    text = one(llm, GREEDY).text
    stop = text[7:10]
    found = one(llm, GREEDY.replace(stop=(stop, "never to be seen")))
    assert (found.finish_reason, found.stop_reason) == ("stop", stop)
    assert found.text == text[: text.index(stop)]
    shown = one(llm, GREEDY.replace(stop=(stop,), include_stop_str_in_output=True))
    assert shown.text == text[: text.index(stop)] + stop


def test_repetition(llm: LLM) -> None:
    goes_round = GREEDY.replace(logit_bias={99: 100.0}, repetition_detection=RepetitionDetection(max_pattern_size=4))
    found = one(llm, goes_round)
    assert (list(found.token_ids), found.finish_reason, found.stop_reason) == ([99, 99], "repetition", None)
    assert found.text == llm.get_tokenizer().decode([99, 99])
    later = one(llm, goes_round.replace(min_tokens=7))
    assert (len(later.token_ids), later.finish_reason) == (7, "repetition")
    assert one(llm, goes_round.replace(max_tokens=2)).finish_reason == "length"  # the engine's own end comes first
    assert one(llm, goes_round.replace(logit_bias=None)).finish_reason == "length"


def test_rules_on_tokens(llm: LLM) -> None:
    free = list(one(llm, GREEDY).token_ids)
    allowed = one(llm, GREEDY.replace(allowed_token_ids=(50, 60, 70)))
    assert set(allowed.token_ids) <= {50, 60, 70}
    banned = one(llm, GREEDY.replace(logit_bias={free[0]: -100.0}))
    assert banned.token_ids[0] != free[0]
    wanted = one(llm, GREEDY.replace(logit_bias={99: 100.0}))
    assert set(wanted.token_ids) == {99}
    word = llm.get_tokenizer().token_text(free[0])
    assert one(llm, GREEDY.replace(bad_words=(word,))).token_ids[0] != free[0]


def test_rules_that_leave_nothing_are_refused(llm: LLM) -> None:
    only = GREEDY.replace(allowed_token_ids=(50,))
    word = llm.get_tokenizer().token_text(50)
    for impossible in (
        only.replace(min_tokens=1, stop_token_ids=(50,)),
        only.replace(bad_words=(word,)),
    ):
        with pytest.raises(InvalidRequest, match="no token that may be chosen"):
            one(llm, impossible)
    assert one(llm, only.replace(stop_token_ids=(50,))).finish_reason == "stop"


def test_logprobs(llm: LLM) -> None:
    found = one(llm, GREEDY.replace(logprobs=2))
    assert found.logprobs is not None
    for token, position in zip(found.token_ids, found.logprobs, strict=True):
        assert position[token].rank == 1
        assert len(position) == 2
        assert position[token].decoded_token == llm.get_tokenizer().token_text(token)
    total = sum(position[token].logprob for token, position in zip(found.token_ids, found.logprobs, strict=True))
    assert found.cumulative_logprob == pytest.approx(total)
    assert one(llm, GREEDY).logprobs is None


def test_logprobs_of_tokens_by_name(llm: LLM) -> None:
    named = [9, 250, 9, 0]
    found = one(llm, GREEDY.replace(logprob_token_ids=named))
    likeliest = one(llm, GREEDY.replace(logprobs=20))
    assert found.logprobs is not None and likeliest.logprobs is not None
    for token, position, top in zip(found.token_ids, found.logprobs, likeliest.logprobs, strict=True):
        assert list(position) == list(dict.fromkeys([token, *named]))
        assert all(top[other] == entry for other, entry in position.items() if other in top)
        assert all((entry.rank or 0) > 20 for other, entry in position.items() if other not in top)
    named = list(dict.fromkeys([*named, *likeliest.logprobs[0]]))
    (both,) = one(llm, GREEDY.replace(logprobs=20, logprob_token_ids=named, max_tokens=1)).logprobs or ()
    assert list(both) == list(dict.fromkeys([found.token_ids[0], *named, *likeliest.logprobs[0]]))
    assert all(both[token] == entry for token, entry in likeliest.logprobs[0].items())
    ids, scored = [5, 9, 30, 7], GREEDY.replace(max_tokens=1, prompt_logprobs=20)
    (plain,) = llm.generate([ids], scored, use_tqdm=False)
    (with_names,) = llm.generate([ids], scored.replace(logprob_token_ids=[9, 250]), use_tqdm=False)
    assert plain.prompt_logprobs is not None and with_names.prompt_logprobs is not None
    for token, top, position in zip(ids[1:], plain.prompt_logprobs[1:], with_names.prompt_logprobs[1:], strict=True):
        assert top is not None and position is not None
        assert list(position)[:3] == list(dict.fromkeys([token, 9, 250, *top]))[:3]
        assert {other: entry for other, entry in position.items() if other in top} == top


def test_seeds(llm: LLM) -> None:
    random = SamplingParams(temperature=1.0, max_tokens=24, ignore_eos=True)
    seeded = random.replace(seed=11)
    assert list(one(llm, seeded).token_ids) == list(one(llm, seeded).token_ids)
    assert list(one(llm, random).token_ids) != list(one(llm, random).token_ids)


def test_truncated_prompts(llm: LLM) -> None:
    ids = list(range(20, 60))
    output = llm.generate([ids], GREEDY.replace(truncate_prompt_tokens=7), use_tqdm=False)[0]
    assert output.prompt_token_ids == ids[-7:]
    first = llm.generate([ids], GREEDY.replace(truncate_prompt_tokens=7, truncation_side="right"), use_tqdm=False)[0]
    assert first.prompt_token_ids == ids[:7]
    long = llm.generate([ids * 20], GREEDY.replace(truncate_prompt_tokens=-1), use_tqdm=False)[0]
    assert len(long.prompt_token_ids) + len(long.outputs[0].token_ids) == 256


@pytest.mark.parametrize(
    ("prompts", "params", "error", "words"),
    [
        ([[]], GREEDY, InvalidRequest, "empty"),
        ([[5], [999]], GREEDY, InvalidRequest, "999"),
        ([[-1]], GREEDY, InvalidRequest, "-1"),
        ([[5] * 256], GREEDY, PromptTooLong, "256"),
        ([[5]], GREEDY.replace(max_tokens=257), PromptTooLong, "max_tokens"),
        ([[5]], SamplingParams(max_tokens=None, min_tokens=256), PromptTooLong, "min_tokens"),
        ([[5]], GREEDY.replace(logprobs=21), InvalidRequest, "logprobs"),
        ([[5]], GREEDY.replace(stop_token_ids=(5000,)), InvalidRequest, "stop_token_ids"),
        ([[5]], GREEDY.replace(logprob_token_ids=(5000,)), InvalidRequest, "logprob_token_ids"),
        ([{"prompt_token_ids": None}], GREEDY, InvalidRequest, "prompt_token_ids"),
        ([{"text": "x"}], GREEDY, InvalidRequest, "prompt_token_ids"),
        ([[5], [6]], [GREEDY], InvalidRequest, "sampling_params"),
        ([[5]], {"temperature": 0}, InvalidRequest, "sampling_params"),
        ([[5]], [None], InvalidRequest, "sampling_params"),
        ([[1.5]], GREEDY, InvalidRequest, "1.5"),
        ([[True]], GREEDY, InvalidRequest, "True"),
        ([[5], [[6]]], GREEDY, InvalidRequest, r"\[\[6\]\]"),
        ([{"prompt": 5}], GREEDY, InvalidRequest, "is 5"),
        (b"text", GREEDY, InvalidRequest, "text"),
        ([None], GREEDY, InvalidRequest, "None"),
        (None, GREEDY, InvalidRequest, "prompts is None"),
    ],
)
def test_what_cannot_be_used(llm: LLM, prompts: list, params: object, error: type, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(error, match=words):
        llm.generate(prompts, params, use_tqdm=False)  # type: ignore[arg-type]
    assert one(llm, GREEDY).finish_reason == "length"  # the engine is untouched


@pytest.mark.parametrize("priority", ["a", ["a", 1], [True, 1], 1.5, 2**40])
def test_priorities_that_are_none(llm: LLM, priority: object) -> None:
    with pytest.raises(InvalidRequest, match="priority"):
        llm.generate([[5], [6]], GREEDY, use_tqdm=False, priority=priority)  # type: ignore[arg-type]


def test_prompts_of_other_kinds_of_sequences(llm: LLM) -> None:
    (wanted,) = llm.generate([5, 6], GREEDY, use_tqdm=False)
    for prompts in (np.array([5, 6]), [np.int64(5), np.int64(6)], (ids for ids in [[5, 6]])):
        (output,) = llm.generate(prompts, GREEDY, use_tqdm=False)  # type: ignore[arg-type]
        assert output.outputs[0].token_ids == wanted.outputs[0].token_ids


def test_names_of_the_templates_own_are_refused(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match="'tools'"):
        llm.chat([{"role": "user", "content": "Hello"}], GREEDY, chat_template_kwargs={"tools": []})


@pytest.mark.parametrize("messages", [None, 5, "Hello", ["Hello"], [None], {"role": "user"}, [[{"role": "user"}, 5]]])
def test_conversations_that_are_none(llm: LLM, messages: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^messages is ") as refused:
        llm.chat(messages, GREEDY)
    assert refused.value.param == "$.messages"


def test_variables_of_a_template_are_a_dict(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match="chat_template_kwargs is 5"):
        llm.chat([{"role": "user", "content": "Hello"}], GREEDY, chat_template_kwargs=5)  # type: ignore[arg-type]


def test_beam_searches_that_cannot_be_made(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match="concurrency_limit is -1"):
        llm.beam_search(PROMPT, BeamSearchParams(beam_width=2, max_tokens=2), concurrency_limit=-1)
    with pytest.raises(InvalidRequest, match="BeamSearchParams"):
        llm.beam_search(PROMPT, GREEDY)  # type: ignore[arg-type]


def test_an_interruption_in_the_middle_of_a_step(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = one(llm, GREEDY).token_ids
    executor = llm._client._engine.executor
    launch = executor.launch

    def interrupted(decision: SchedulerOutput) -> Ticket:
        signal.raise_signal(signal.SIGINT)
        return launch(decision)

    monkeypatch.setattr(executor, "launch", interrupted)
    with signals.interrupting(), pytest.raises(KeyboardInterrupt):  # whoever runs the tests may ignore it
        llm.generate([PROMPT] * 3, GREEDY, use_tqdm=False)
    monkeypatch.undo()
    assert one(llm, GREEDY).token_ids == wanted


def test_one_that_fails_costs_the_others_nothing(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = one(llm, GREEDY).token_ids
    executor = llm._client._engine.executor
    launch, num_steps = executor.launch, 0

    def damaged(decision: SchedulerOutput) -> Ticket:
        nonlocal num_steps
        num_steps += 1
        ticket = launch(decision)
        if num_steps == 5:
            ticket.result().token_ids[1] = -1
        return ticket

    monkeypatch.setattr(executor, "launch", damaged)
    with pytest.raises(GenerationFailed, match="1 of 3 did") as raised:
        llm.generate([PROMPT] * 3, GREEDY, use_tqdm=False)
    monkeypatch.undo()
    first, failed, last = [output.outputs[0] for output in raised.value.outputs]
    assert first.token_ids == last.token_ids == wanted
    assert failed.finish_reason == "error" and failed.token_ids == wanted[: len(failed.token_ids)]
    assert one(llm, GREEDY).token_ids == wanted


def test_a_context_that_is_stretched_by_hand(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "model")
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 512}
    prompt = {"prompt_token_ids": list(range(10, 310)) * 3}
    with pytest.raises(PromptTooLong):
        LLM(str(folder), num_gpu_blocks_override=40).generate(prompt, GREEDY, use_tqdm=False)
    stretched = LLM(str(folder), num_gpu_blocks_override=40, hf_overrides={"rope_scaling": yarn})
    found = one(stretched, GREEDY, prompt).token_ids

    stated = json.loads((folder / "config.json").read_text())
    stated["rope_parameters"] = yarn | {"rope_theta": stated["rope_parameters"]["rope_theta"]}
    (folder / "config.json").write_text(json.dumps(stated))
    written = LLM(str(folder), num_gpu_blocks_override=40)
    assert one(written, GREEDY, prompt).token_ids == found and len(found) == GREEDY.max_tokens


def test_a_negative_seed(tiny_checkpoint: Callable[[str], Path]) -> None:
    drawn = [
        LLM(str(tiny_checkpoint("llama")), num_gpu_blocks_override=10, seed=-1).generate("a", use_tqdm=False)
        for _ in range(2)
    ]
    assert drawn[0][0].outputs[0].token_ids == drawn[1][0].outputs[0].token_ids


def test_a_model_that_finds_no_memory(tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError("no memory for 5 bytes of weights")

    monkeypatch.setattr("quire.engine.build.load_model", full)
    with pytest.raises(ConfigError, match=r"does not fit here \(no memory for 5 bytes of weights\)"):
        LLM(str(tiny_checkpoint("llama")))


def test_unknown_settings() -> None:
    with pytest.raises(ConfigError, match="max_model_len"):
        LLM("x", max_model_length=5)
    with pytest.raises(ConfigError, match="use int8"):
        LLM(kv_cache_dtype="fp8")
    with pytest.raises(ConfigError, match="max_num_seqs"):
        LLM("x", max_num_seqs=0)


def test_keywords_of_other_programs(tiny_checkpoint: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    """A script changes one import: what means the same works, what cannot matter is said, the rest is refused."""
    with caplog.at_level("INFO", logger="quire"):
        llm = LLM(
            model=str(tiny_checkpoint("llama")),
            trust_remote_code=True,
            enforce_eager=True,
            dtype="half",
            max_seq_len=128,
            tensor_parallel_size=1,
            quantization=None,
            enable_lora=False,
            disable_radix_cache=True,
            num_gpu_blocks_override=50,
        )
    assert (llm.info.max_model_len, llm.info.dtype) == (128, "float16")
    assert llm.info.cache_config["enable_prefix_caching"] == "False"
    assert "trust_remote_code" in caplog.text
    assert "enforce_eager" in caplog.text
    for keyword in (
        {"quantization_config": {"bits": 4}},
        {"enable_lora": True},
        {"speculative_config": {"num_tokens": 3}},
    ):
        with pytest.raises(ConfigError, match=next(iter(keyword))):
            LLM("x", **keyword)
