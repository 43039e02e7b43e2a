"""Byte-level vocabularies rebuilt from GGUF metadata give the ids of the tokenizer they came from."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, normalizers, pre_tokenizers

from quire.core.errors import CorruptCheckpoint, UnsupportedModel
from quire.text.byte_alphabet import BYTE_OF
from quire.text.gguf_tokenizer import build_gguf_tokenizer
from quire.text.tokenizer import Tokenizer

# As the models' own tokenizer.json files have them.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def digits() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


ORIGINALS: dict[str, tuple[Any, Any, bool]] = {
    "gpt-2": (lambda: pre_tokenizers.ByteLevel(add_prefix_space=False), None, False),
    "olmo": (lambda: pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC, False),
    "smollm": (digits, None, False),
    "command-r": (digits, normalizers.NFC, False),
    "llama-bpe": (lambda: split(LLAMA3), None, True),
    "qwen2": (lambda: split(QWEN2), normalizers.NFC, False),
    "deepseek-r1-qwen": (lambda: split(QWEN2), None, False),
    "tekken": (lambda: split(TEKKEN), None, True),
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_ids_and_text_equal_the_original(
    name: str, train_byte_level, as_byte_level_metadata, corpus: list[str]
) -> None:
    pre_tokenizer, normalizer, ignore_merges = ORIGINALS[name]
    original = train_byte_level(pre_tokenizer(), normalizer and normalizer(), ignore_merges)
    ours = Tokenizer(*build_gguf_tokenizer(as_byte_level_metadata(original, name), "test"))
    assert ours.vocab_size == original.get_vocab_size()
    for text in corpus:
        ids = original.encode(text).ids
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == original.decode(ids)
        assert ours.decode(ids, False) == original.decode(ids, skip_special_tokens=False)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_any_text_comes_back(byte_level: Tokenizer, text: str) -> None:
    assert byte_level.decode(byte_level.encode(text), skip_special_tokens=False) == text


@pytest.mark.parametrize("name", ["gpt-4o", "llama4", "qwen35", "deepseek-v3", "deepseek-coder", "dbrx", "default"])
def test_every_named_cut_keeps_all_text(
    name: str, byte_level: Tokenizer, train_byte_level, as_byte_level_metadata, corpus: list[str]
) -> None:
    original = train_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    ours = Tokenizer(*build_gguf_tokenizer(as_byte_level_metadata(original, name), "test"))
    for text in corpus:
        decoded = ours.decode(ours.encode(text), False)
        assert decoded == (normalizers.NFC().normalize_str(text) if name == "qwen35" else text)


def test_numbers_are_cut_as_the_family_cuts_them() -> None:
    from quire.text.pre_tokenizers import pre_tokenization

    def cut(name: str, text: str) -> list[str]:
        return [piece for piece, _ in pre_tokenization(name).pre_tokenizer().pre_tokenize_str(text)]

    assert cut("smollm", "a 123") == ["a", "Ġ", "1", "2", "3"]
    assert cut("gpt-2", "a 123") == ["a", "Ġ123"]
    assert cut("llama-bpe", "a 12345") == ["a", "Ġ", "123", "45"]
    assert cut("qwen2", "a 12") == ["a", "Ġ", "1", "2"]
    assert cut("deepseek-v3", "a1234") == ["a", "123", "4"]
    assert cut("gpt-4o", "iPhone 1234") == ["i", "Phone", "Ġ", "123", "4"]


def test_alphabet_has_every_byte_once() -> None:
    assert sorted(BYTE_OF.values()) == list(range(256))
    assert set(BYTE_OF) == set(pre_tokenizers.ByteLevel.alphabet())
    assert BYTE_OF["Ġ"] == 0x20


@pytest.fixture
def metadata(byte_level: Tokenizer, train_byte_level, as_byte_level_metadata) -> dict[str, Any]:
    original = train_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    return as_byte_level_metadata(original, "gpt-2", bos_token_id=1, eos_token_id=2)


def test_framing_follows_the_flags(metadata: dict[str, Any]) -> None:
    def ids(**flags: bool) -> list[int]:
        changed = {**metadata, **{f"tokenizer.ggml.{name}": value for name, value in flags.items()}}
        return Tokenizer(*build_gguf_tokenizer(changed, "test")).encode("hi")

    plain = ids()
    assert ids(add_bos_token=True) == [1, *plain]
    assert ids(add_eos_token=True) == [*plain, 2]
    assert ids(add_bos_token=True, add_eos_token=True) == [1, *plain, 2]
    tokenizer = Tokenizer(*build_gguf_tokenizer({**metadata, "tokenizer.ggml.add_bos_token": True}, "test"))
    assert tokenizer.encode("hi", add_special_tokens=False) == plain
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)


def test_llama3_files_without_a_flag_begin_with_bos(metadata: dict[str, Any]) -> None:
    del metadata["tokenizer.ggml.add_bos_token"]
    assert Tokenizer(*build_gguf_tokenizer(metadata, "test")).encode("")[:1] == []
    metadata["tokenizer.ggml.pre"] = "llama-bpe"
    assert Tokenizer(*build_gguf_tokenizer(metadata, "test")).encode("") == [1]


@pytest.mark.parametrize(
    ("name", "value", "error", "says"),
    [
        ("pre", "nobodys-bpe", UnsupportedModel, "nobodys-bpe"),
        ("model", "wordpiece", UnsupportedModel, "wordpiece"),
        ("model", None, UnsupportedModel, "no tokenizer"),
        ("tokens", None, CorruptCheckpoint, "tokens"),
        ("tokens", ["a", "a", "b"], CorruptCheckpoint, "different"),
        ("tokens", [1, 2], CorruptCheckpoint, "strings"),
        ("merges", None, CorruptCheckpoint, "merges"),
        ("merges", ["nonsense"], CorruptCheckpoint, "nonsense"),
        ("merges", ["a zzzzzzzz"], CorruptCheckpoint, "merges"),
        ("token_type", np.array([1, 1]), CorruptCheckpoint, "token_type"),
        ("eos_token_id", 10**6, CorruptCheckpoint, "1000000"),
        ("add_bos_token", "yes", CorruptCheckpoint, "bool"),
    ],
)
def test_contradictions_are_refused(
    metadata: dict[str, Any], name: str, value: Any, error: type[Exception], says: str
) -> None:
    if value is None:
        del metadata[f"tokenizer.ggml.{name}"]
    else:
        metadata[f"tokenizer.ggml.{name}"] = value
    with pytest.raises(error, match=says):
        build_gguf_tokenizer(metadata, "test")
