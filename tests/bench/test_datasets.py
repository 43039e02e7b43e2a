"""Prompts: exact lengths under a real tokenizer, seeds, shared beginnings, files."""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from quire.bench.datasets.files import Custom, ShareGPT, Sonnet
from quire.bench.datasets.sample import Dataset, Sample
from quire.bench.datasets.sonnets import SONNETS
from quire.bench.datasets.synthetic import PrefixRepetition, RandomText
from quire.bench.datasets.writer import TextWriter
from quire.bench.tokens import load_tokenizer
from quire.core.errors import ConfigError
from quire.text.tokenizer import Tokenizer


class Pairs:
    """A tokenizer whose words all have two tokens, and which nothing makes odd."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [0] * 2 * len(text.split())


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Callable[[str], Path]) -> Tokenizer:
    return load_tokenizer(str(tiny_checkpoint("llama")))


def take(dataset: Dataset, tokenizer: Tokenizer, num: int, seed: int = 0) -> list[Sample]:
    samples = list(dataset.samples(num, TextWriter(tokenizer, seed)))
    assert len(samples) == num
    for sample in samples:
        assert len(tokenizer.encode(sample.prompt)) == sample.num_prompt_tokens
    return samples


def beginning(texts: Sequence[Sequence[Any]]) -> list[Any]:
    """What all have in common at the start."""
    same = itertools.takewhile(lambda items: len(set(items)) == 1, zip(*texts, strict=False))
    return [items[0] for items in same]


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 5, 17, 100, 333])
def test_texts_have_exactly_the_tokens_asked_for(tokenizer: Tokenizer, num_tokens: int) -> None:
    for seed in range(3):
        assert len(tokenizer.encode(TextWriter(tokenizer, seed).write(num_tokens))) == num_tokens


def test_what_no_text_can_have() -> None:
    writer = TextWriter(Pairs(), 0)
    assert len(writer.write(20).split()) == 10
    with pytest.raises(ConfigError, match="no text of exactly 7 tokens"):
        writer.write(7)
    with pytest.raises(ConfigError, match="its beginning, or what the tokenizer adds, has 6"):
        writer.write(4, "one two three")


def test_random_prompts(tokenizer: Tokenizer) -> None:
    samples = take(RandomText(input_len=30, output_len=7), tokenizer, 20)
    assert {(s.num_prompt_tokens, s.num_output_tokens) for s in samples} == {(30, 7)}
    assert len({s.prompt for s in samples}) == 20


def test_seeds_decide_prompts(tokenizer: Tokenizer) -> None:
    dataset = RandomText(input_len=30)
    first = take(dataset, tokenizer, 5)
    assert take(dataset, tokenizer, 5) == first
    other = take(dataset, tokenizer, 5, seed=1)
    assert not {s.prompt for s in first} & {s.prompt for s in other}


def test_lengths_vary_by_the_ratio(tokenizer: Tokenizer) -> None:
    samples = take(RandomText(input_len=40, output_len=10, range_ratio=0.5), tokenizer, 60)
    lengths = {s.num_prompt_tokens for s in samples}
    assert min(lengths) >= 20 and max(lengths) <= 60 and len(lengths) > 10
    assert {s.num_output_tokens for s in samples} <= set(range(5, 16))
    with pytest.raises(ConfigError, match="--random-range-ratio 1"):
        take(RandomText(range_ratio=1.0), tokenizer, 1)


def test_random_prompts_may_share_a_beginning(tokenizer: Tokenizer) -> None:
    samples = take(RandomText(input_len=20, prefix_len=30), tokenizer, 5)
    shared = beginning([tokenizer.encode(s.prompt) for s in samples])
    assert samples[0].num_prompt_tokens == 50 and 30 <= len(shared) < 40


def test_groups_share_beginnings(tokenizer: Tokenizer) -> None:
    dataset = PrefixRepetition(prefix_len=30, suffix_len=20, num_prefixes=3, output_len=4)
    samples = take(dataset, tokenizer, 12)
    assert len({s.prompt for s in samples}) == 12
    beginnings = [tuple(tokenizer.encode(s.prompt)[:30]) for s in samples]
    assert sorted(map(beginnings.count, set(beginnings))) == [4, 4, 4]
    assert beginnings != sorted(beginnings)


def test_built_in_sonnets(tokenizer: Tokenizer) -> None:
    assert [len(poem.splitlines()) for poem in SONNETS.split("\n\n")] == [14] * 6
    samples = take(Sonnet(input_len=400, output_len=5, prefix_len=150), tokenizer, 3)
    prompts = [s.prompt for s in samples]
    assert len(set(prompts)) == 3
    shared = "".join(beginning(prompts))
    assert "Shall I compare thee" in shared and len(tokenizer.encode(shared)) >= 110


def test_verses_from_a_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "poem.txt"
    path.write_text("roses are red\n\nviolets are blue\n")
    prompt = take(Sonnet(path=str(path), input_len=60, prefix_len=0), tokenizer, 1)[0].prompt
    assert "roses are red\n" in prompt or "violets are blue\n" in prompt
    with pytest.raises(ConfigError, match="--sonnet-prefix-len 70"):
        take(Sonnet(input_len=60, prefix_len=70), tokenizer, 1)
    path.write_text("\n")
    with pytest.raises(ConfigError, match="holds no lines"):
        take(Sonnet(path=str(path)), tokenizer, 1)


@pytest.fixture
def conversations(tmp_path: Path) -> str:
    def conversation(*texts: str) -> dict[str, Any]:
        return {"id": "x", "conversations": [{"from": "human", "value": text} for text in texts]}

    data = [
        conversation("What is the capital of France?", "The capital of France is Paris."),
        conversation("Only a question, with no answer"),
        conversation("a", "too short a question"),
        conversation("And what is that of Spain, if you know?", "no"),
        conversation("word " * 2000, "The question is too long."),
        conversation("Where do the dogs sleep at night?", "They sleep where they please.", "Why?", "Why not?"),
    ]
    path = tmp_path / "conversations.json"
    path.write_text(json.dumps(data))
    return str(path)


def test_conversations(conversations: str, tokenizer: Tokenizer) -> None:
    samples = take(ShareGPT(path=conversations, is_shuffled=False), tokenizer, 2)
    assert [s.prompt[:5] for s in samples] == ["What ", "Where"]
    assert samples[1].num_output_tokens == len(tokenizer.encode("They sleep where they please.", False))
    fixed = take(ShareGPT(path=conversations, output_len=9), tokenizer, 3)
    assert {s.num_output_tokens for s in fixed} == {9} and len({s.prompt for s in fixed}) == 3


def test_too_few_are_repeated_unless_that_is_forbidden(conversations: str, tokenizer: Tokenizer) -> None:
    assert len({s.prompt for s in take(ShareGPT(path=conversations), tokenizer, 5)}) == 2
    with pytest.raises(ConfigError, match="holds 2 prompts that can be used, but 5"):
        take(ShareGPT(path=conversations, may_repeat=False), tokenizer, 5)


def test_lines_of_ones_own(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "one", "output_tokens": 3}\n\n{"prompt": "two"}\n')
    custom = Custom(path=str(path), is_shuffled=False, output_len=8)
    assert [(s.prompt, s.num_output_tokens) for s in take(custom, tokenizer, 3)] == [("one", 8), ("two", 8), ("one", 8)]
    without = custom.samples(1, TextWriter(None, 0))
    assert without == [Sample("one", 0, 8)]
    with pytest.raises(ConfigError, match="line 3 has no output_tokens"):
        take(Custom(path=str(path), output_len=-1), tokenizer, 1)
    path.write_text('{"prompt": "one"}\n{"text": "two"}\n')
    with pytest.raises(ConfigError, match=r"line 2: .*prompt"):
        take(Custom(path=str(path)), tokenizer, 1)


@pytest.mark.parametrize("kind", [ShareGPT, Custom])
def test_files_that_are_not_there(kind: type[Any], tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs --dataset-path"):
        take(kind(path=None), tokenizer, 1)
    with pytest.raises(ConfigError, match="No such file"):
        take(kind(path=str(tmp_path / "nothing")), tokenizer, 1)
    (tmp_path / "empty").write_text("[]" if kind is ShareGPT else "")
    with pytest.raises(ConfigError, match="holds no prompts"):
        take(kind(path=str(tmp_path / "empty")), tokenizer, 1)
