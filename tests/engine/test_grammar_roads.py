"""The road does not change the tokens of those that are led either: by grammars, and by bounds of their reasoning."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from llguidance import LLMatcher

from quire import LLM, SamplingParams
from quire.core.outputs import RequestOutput
from quire.core.request import ReasoningMarks, Request
from quire.decoding.slots import Choice
from quire.engine.worker.recorded_trial import RecordedTrial
from quire.kernels.cpu import library

BODIES = ("torch float32 auto llama", "v4n bfloat16 auto gemma3", "v3 float32 auto llama", "v4n bfloat16 int8 qwen3")
"""What computes, in what, how keys and values are held, and the model's family."""
BEGIN_MARK, END_MARK = (3,), (4, 5)
"""Special tokens of the tiny models, which no answer holds."""

OBJECT = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9},
        "kind": {"enum": ["quick", "brown", "lazy"]},
        "legs": {"type": "integer", "minimum": 0, "maximum": 1000},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "kind", "legs", "tags"],
    "additionalProperties": False,
}


def after_thoughts(body: str) -> str:
    """The grammar of a reply that begins inside reasoning."""
    return LLMatcher.grammar_from_lark(f"start: thoughts <[4]> <[5]> body\nthoughts: /(.|\\n)*/\n{body}\n")


def budget(tokens: int, is_open: bool = True) -> ReasoningMarks:
    return ReasoningMarks(begin_ids=BEGIN_MARK, end_ids=END_MARK, is_open=is_open, budget=tokens)


def matches(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


COUNTED = "(capital of (France|Italy), )+Paris\\."
SENTENCE = "(The|A) (quick|lazy) (fox|dog)( jumps| minds){1,3}"
LED: list[tuple[str | None, ReasoningMarks | None, Callable[[str], Any]]] = [
    (
        LLMatcher.grammar_from_json_schema(OBJECT, overrides={"whitespace_flexible": False}),
        None,
        lambda text: len(json.loads(text)) == 4,
    ),
    (None, budget(4), lambda text: True),
    (LLMatcher.grammar_from_regex(SENTENCE), None, matches(SENTENCE)),
    (after_thoughts(f"body: /{SENTENCE}/"), budget(0), matches(SENTENCE)),
    (LLMatcher.grammar_from_regex(COUNTED), None, matches(COUNTED)),
    (after_thoughts(f"body: %json {json.dumps(OBJECT)}"), budget(7), lambda text: json.loads(text)["tags"]),
    (LLMatcher.grammar_from_regex("yes|no"), None, matches("yes|no")),
    (None, budget(2, is_open=False), lambda text: True),
    (LLMatcher.grammar_from_regex("[a-z ]{1,30}"), None, matches("[a-z ]{1,30}")),
    (None, None, lambda text: True),
]
"""Grammar, bound, and what the answer must be."""
LENGTHS = (1, 2, 5, 8, 15, 16, 17, 31, 33, 40, 63)
PROMPTS = [[(7 * i + 3 * j * j + length) % 250 + 8 for j in range(length)] for i, length in enumerate(LENGTHS * 3)]


def params(i: int) -> SamplingParams:
    """Greedy and seeded, some penalised, of some the log probabilities are asked for, some go on behind the end."""
    return SamplingParams(
        temperature=0.0 if i % 2 == 0 else 0.9,
        top_p=0.9 if i % 3 else 1.0,
        repetition_penalty=1.2 if i % 5 == 1 else 1.0,
        presence_penalty=0.5 if i % 7 == 3 else 0.0,
        seed=1000 + i,
        max_tokens=(60, 24, 7)[i % 3],
        logprobs=2 if i % 4 == 3 else None,
        ignore_eos=i % 6 == 5,
        min_tokens=5 if i % 3 == 0 else 0,
        bad_words=("the",) if i % 11 == 4 else (),
        skip_special_tokens=False,
    )


PARAMS = [params(i) for i in range(len(PROMPTS))]


LEADING = [dict(zip(("grammar", "reasoning"), LED[i % len(LED)][:2], strict=True)) for i in range(len(PROMPTS))]


def generate(
    llm: LLM, prompts: Sequence[list[int]], params: Sequence[SamplingParams], more: Sequence[dict[str, Any]]
) -> list[RequestOutput]:
    """As LLM.generate, with the fields ``more`` of each Request."""
    made = iter(more)
    request = llm._intake.request

    def led(*args: Any, **options: Any) -> Request:
        return msgspec.structs.replace(request(*args, **options), **next(made))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llm._intake, "request", led)
        return llm.generate(prompts, params, use_tqdm=False)


def answers(outputs: list[RequestOutput]) -> list[Any]:
    """What must not change, exactly."""
    return [
        [
            (
                list(c.token_ids),
                c.finish_reason,
                [{t: lp.logprob for t, lp in position.items()} for position in c.logprobs or []],
            )
            for c in output.outputs
        ]
        for output in outputs
    ]


class Road:
    """A tiny model on one kind of body, and what it answers when each request runs alone."""

    def __init__(self, path: Path, body: str) -> None:
        self.level, dtype, kv_dtype, _ = body.split()
        self._path = path
        self._settings: dict[str, Any] = {
            "cpu_kernels": "torch" if self.level == "torch" else "native",
            "dtype": dtype,
            "kv_cache_dtype": kv_dtype,
            "max_num_batched_tokens": 512,
            "max_num_seqs": 33,
            "max_model_len": 160,
            "block_size": 16,
            "num_gpu_blocks_override": 400,
        }
        llm = self.engine(enable_prefix_caching=False)
        self.alone = [
            generate(llm, [prompt], [one], [more])[0]
            for prompt, one, more in zip(PROMPTS, PARAMS, LEADING, strict=True)
        ]
        self.expected = answers(self.alone)

    def engine(self, **settings: Any) -> LLM:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("QUIRE_CPU_LEVEL", "" if self.level == "torch" else self.level)
            return LLM(str(self._path), **(self._settings | settings))

    def run(self, llm: LLM) -> list[Any]:
        return answers(generate(llm, PROMPTS, PARAMS, LEADING))


@pytest.fixture(scope="module", params=BODIES)
def road(request: pytest.FixtureRequest, tiny_checkpoint: Callable[[str], Path]) -> Road:
    level, *_, family = request.param.split()
    if level != "torch" and level not in [one.level for one in library.available()]:
        pytest.skip(f"the kernels {level} do not run here")
    return Road(tiny_checkpoint(family), request.param)


def test_answers_are_what_their_grammars_say(road: Road) -> None:
    """What is not cut off matches; what is reasoned keeps to its budget."""
    num_checked, tokenizer = 0, road.engine().get_tokenizer()
    for i, output in enumerate(road.alone):
        answer, (_, marks, check) = output.outputs[0], LED[i % len(LED)]
        tokens, first = list(answer.token_ids), 0
        if marks is not None and marks.is_open and len(tokens) >= marks.budget + len(END_MARK):
            ends = [at for at in range(len(tokens)) if tuple(tokens[at : at + 2]) == END_MARK]
            assert ends[0] <= marks.budget + 3, "in the middle of a character it may have to wait"
            first = ends[0] + len(END_MARK)
        if answer.finish_reason == "stop":
            text = tokenizer.decode(tokens[first:])
            assert check(text), (i, tokens, text)
            num_checked += 1
    assert num_checked >= 8


def test_forced_tokens_cost_no_steps(road: Road) -> None:
    llm = road.engine()
    steps = iter(llm._client.step, None)
    with pytest.MonkeyPatch.context() as patch:
        taken = []
        patch.setattr(llm._client, "step", lambda: taken.append(None) or next(steps))
        one = SamplingParams(temperature=0, max_tokens=60)
        (output,) = generate(llm, PROMPTS[:1], [one], [{"grammar": LED[4][0]}])
    assert len(taken) < len(output.outputs[0].token_ids) / 2


def test_batched(road: Road) -> None:
    assert road.run(road.engine(max_num_seqs=33, enable_prefix_caching=False)) == road.expected


@pytest.mark.parametrize("size, chunk", [(33, 40), (3, 3)])
def test_chunked(road: Road, size: int, chunk: int) -> None:
    assert road.run(road.engine(max_num_seqs=size, max_num_batched_tokens=chunk)) == road.expected


def test_one_by_one(road: Road) -> None:
    """Where prompts are not cut into chunks, forced tokens are given one in a step."""
    assert road.run(road.engine(enable_chunked_prefill=False)) == road.expected


def test_preempted(road: Road) -> None:
    llm = road.engine(num_gpu_blocks_override=14, max_num_batched_tokens=64)
    assert road.run(llm) == road.expected
    assert llm.stats.num_preemptions > 0
    assert llm.check().error == ""


def test_from_the_prefix_cache(road: Road) -> None:
    llm = road.engine()
    road.run(llm)
    assert road.run(llm) == road.expected


def test_log_probabilities_do_not_change_the_tokens(road: Road) -> None:
    asking = [one.replace(logprobs=1) for one in PARAMS]
    outputs = generate(road.engine(), PROMPTS, asking, LEADING)
    assert [tokens for [(tokens, *_)] in answers(outputs)] == [tokens for [(tokens, *_)] in road.expected]
    assert all(len(c.logprobs or ()) == len(c.token_ids) for output in outputs for c in output.outputs)


def test_the_short_way(road: Road, short_ways: Counter[Choice], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of steps in which nothing but guides stands between the logits and the choice; some draw twice in one."""
    plain = dict(repetition_penalty=1.0, presence_penalty=0.0, min_tokens=0, bad_words=())
    asked = [one.replace(**plain, logprobs=None) for one in PARAMS]
    expected = generate(road.engine(), PROMPTS, [one.replace(logprobs=0) for one in asked], LEADING)
    assert not +short_ways, "who asks for log probabilities goes the long way"
    redrawn, redraw = [], RecordedTrial.redraw

    def counted(self: RecordedTrial, rows: np.ndarray, *more: np.ndarray) -> np.ndarray:
        redrawn.append(len(rows))
        return redraw(self, rows, *more)

    monkeypatch.setattr(RecordedTrial, "redraw", counted)
    outputs = generate(road.engine(), PROMPTS, asked, LEADING)
    assert [output.outputs[0].token_ids for output in outputs] == [output.outputs[0].token_ids for output in expected]
    num_chosen = sum(len(output.outputs[0].token_ids) for output in outputs)
    assert road.level == "torch" or (short_ways[Choice.LED] > 5 and 10 < sum(redrawn) < num_chosen)


def test_several_continuations(road: Road) -> None:
    many = SamplingParams(n=4, temperature=1.0, seed=5, max_tokens=30)
    apart = [many.replace(n=1, seed=5 + i) for i in range(4)]
    some = range(8)
    llm = road.engine()
    together = answers(generate(llm, [PROMPTS[i] for i in some], [many] * 8, [LEADING[i] for i in some]))
    each = list(itertools.product(some, range(4)))
    single = answers(
        generate(llm, [PROMPTS[i] for i, _ in each], [apart[k] for _, k in each], [LEADING[i] for i, _ in each])
    )
    assert [continuation for answer in together for continuation in answer] == [answer[0] for answer in single]
