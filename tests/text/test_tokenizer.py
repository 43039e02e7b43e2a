"""The tokenizer of a folder: the files it is read from, what its configuration changes, what it says of tokens."""

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from quire.checkpoint.checkpoint import open_checkpoint
from quire.core.errors import CorruptCheckpoint, InvalidRequest, UnsupportedModel
from quire.text.bad_words import MAX_BAD_WORD_TOKENS, bad_word_ids
from quire.text.tokenizer import Tokenizer


@pytest.fixture
def backend(train_byte_level) -> Backend:
    backend: Backend = train_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    return backend


@pytest.fixture
def folder(tmp_path: Path, backend: Backend):
    """(config of the tokenizer, other files) -> a checkpoint folder with a tokenizer.json."""

    def lay(tokenizer_config: dict[str, Any] | None = None, with_json: bool = True, **files: str) -> Path:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "architectures": ["X"]}))
        if with_json:
            backend.save(str(tmp_path / "tokenizer.json"))
        if tokenizer_config is not None:
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
        for name, text in files.items():
            (tmp_path / name.replace("__", ".")).write_text(text, encoding="utf-8", newline="")
        return tmp_path

    return lay


def read(path: Path) -> Tokenizer:
    return Tokenizer.from_checkpoint(open_checkpoint(path))


def test_roles_and_framing_come_from_the_configuration(folder) -> None:
    config = {
        "bos_token": "<|im_start|>",
        "eos_token": {"content": "<|im_end|>", "lstrip": False},
        "pad_token": None,
        "unk_token": "not in the vocabulary",
    }
    tokenizer = read(folder(config))
    plain = tokenizer.encode("hi there")
    assert tokenizer.roles == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    begin = tokenizer.added_tokens()["1"]
    assert (begin["content"], begin["special"]) == ("<|im_start|>", True)
    assert read(folder({**config, "add_bos_token": True})).encode("hi there") == [1, *plain]
    assert read(folder({**config, "add_bos_token": True, "add_eos_token": True})).encode("hi there") == [1, *plain, 2]
    assert read(folder({**config, "add_bos_token": False})).encode("hi there") == plain


def test_declared_tokens_are_added_as_transformers_adds_them(folder, backend: Backend, corpus: list[str]) -> None:
    size = backend.get_vocab_size()
    declared = {
        str(size): {"content": "<tool_call>", "special": False, "normalized": False},
        str(size + 1): {"content": "[x]", "special": True, "lstrip": True, "normalized": False},
    }
    path = folder({"added_tokens_decoder": declared, "eos_token": "<|im_end|>"})
    ours, theirs = read(path), PreTrainedTokenizerFast.from_pretrained(str(path))
    assert ours.vocab_size == size + 2
    assert ours.special_token_ids == {0, 1, 2, size + 1}
    for text in [*corpus, "a  [x] b<tool_call>c"]:
        assert ours.encode(text) == theirs(text)["input_ids"]


def test_declared_ids_must_fit(folder) -> None:
    with pytest.raises(CorruptCheckpoint, match="'<x>' the id 9999"):
        read(folder({"added_tokens_decoder": {"9999": {"content": "<x>"}}}))
    with pytest.raises(CorruptCheckpoint, match="added_tokens_decoder"):
        read(folder({"added_tokens_decoder": {"one": 1}}))


def test_truncation_and_padding_in_the_file_are_off(folder, backend: Backend) -> None:
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    assert len(read(folder()).encode("x y z " * 20)) > 64


@pytest.mark.parametrize("model_type", ["gpt2", "qwen2"])
def test_vocab_and_merges_without_tokenizer_json(model_type: str, train_byte_level, folder, corpus: list[str]) -> None:
    if model_type == "gpt2":
        original = train_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    else:
        pattern = (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
        cut = [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
        original = train_byte_level(pre_tokenizers.Sequence(cut), normalizers.NFC())
    merges = json.loads(original.model.__getstate__())["merges"]
    lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    declared = {
        str(index): {"content": token.content, "special": token.special, "normalized": False}
        for index, token in original.get_added_tokens_decoder().items()
    }
    path = folder(
        {"added_tokens_decoder": declared},
        with_json=False,
        vocab__json=json.dumps(original.get_vocab(with_added_tokens=False)),
        merges__txt="#version: 0.2\n" + "\n".join(lines) + "\n",
        config__json=json.dumps({"model_type": model_type}),
    )
    ours = read(path)
    for text in corpus:
        assert ours.encode(text) == original.encode(text).ids


def test_a_sentencepiece_file_alone_begins_texts_with_bos(folder, train_sentencepiece) -> None:
    data = train_sentencepiece()
    path = folder(with_json=False)
    (path / "tokenizer.model").write_bytes(data)
    oracle = sentencepiece.SentencePieceProcessor(model_proto=data)
    assert read(path).encode("hello world") == [1, *oracle.encode("hello world")]
    assert read(folder({"add_bos_token": False}, with_json=False)).encode("hello") == oracle.encode("hello")


def test_a_folder_without_a_tokenizer_is_refused(folder) -> None:
    with pytest.raises(UnsupportedModel, match=r"neither tokenizer\.json"):
        read(folder(with_json=False))
    unknown = folder(
        with_json=False, vocab__json="{}", merges__txt="", config__json=json.dumps({"model_type": "nobodys"})
    )
    with pytest.raises(UnsupportedModel, match="nobodys"):
        read(unknown)


@pytest.mark.parametrize(
    "files", [{"tokenizer__json": "{"}, {"tokenizer_config__json": "[1]"}, {"tokenizer_config__json": "{"}]
)
def test_broken_files_are_named(folder, files: dict[str, str]) -> None:
    with pytest.raises(CorruptCheckpoint, match=next(iter(files)).replace("__", ".")):
        read(folder(None, True, **files))


def test_a_decoder_nobody_knows_is_refused(backend: Backend) -> None:
    from tokenizers import decoders

    backend.decoder = decoders.CTC()
    with pytest.raises(UnsupportedModel, match="CTC"):
        Tokenizer(backend, {})


# --- what it says of tokens -----------------------------------------------------------------------------------------


def test_bytes_of_every_token_of_a_text_are_the_text(
    byte_level: Tokenizer, sentencepiece_tokenizer: Tokenizer, corpus: list[str]
) -> None:
    for tokenizer in (byte_level, sentencepiece_tokenizer):
        for text in corpus:
            ids = tokenizer.encode(text, add_special_tokens=False)
            joined = b"".join(tokenizer.token_bytes(token_id) for token_id in ids).decode()
            if tokenizer is byte_level:
                assert joined == text
            elif "<" not in text:
                assert joined == (" " + text if text else "").replace("\u2581", " ")


def test_texts_of_single_tokens(byte_level: Tokenizer, sentencepiece_tokenizer: Tokenizer) -> None:
    assert byte_level.token_text(2) == "<|im_end|>"
    assert byte_level.token_text(byte_level.token_to_id("Ġ")) == " "
    lone = byte_level.token_to_id("ð")
    assert (byte_level.token_text(lone), byte_level.token_bytes(lone)) == ("\ufffd", b"\xf0")
    lone = sentencepiece_tokenizer.token_to_id("<0xF0>")
    assert sentencepiece_tokenizer.token_text(lone) == "\ufffd"
    assert sentencepiece_tokenizer.token_bytes(lone) == b"\xf0"
    word = sentencepiece_tokenizer.encode("the", add_special_tokens=False)[0]
    assert sentencepiece_tokenizer.token_text(word).startswith(" ")
    assert sentencepiece_tokenizer.id_to_token(word).startswith("\u2581")


def test_ids_outside_the_vocabulary(byte_level: Tokenizer) -> None:
    size = byte_level.vocab_size
    for wrong in (size, -1, 2**40):
        with pytest.raises(InvalidRequest, match=rf"Token id {wrong} at position 1.*0 to {size - 1}") as caught:
            byte_level.decode([0, wrong])
        assert caught.value.param == "$.tokens[1]"
    assert byte_level.id_to_token(size) is None
    assert byte_level.id_to_token(-1) is None
    assert byte_level.token_bytes(size) == b""


def test_surrogates_are_refused(byte_level: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match=r"lone surrogate '.ud800' at character 3"):
        byte_level.encode("abc\ud800def")


def test_special_tokens_in_text_count_as_such(byte_level: Tokenizer) -> None:
    assert byte_level.encode("<|im_start|>") == [1]
    assert byte_level.is_special(1)
    assert not byte_level.is_special(byte_level.encode("<think>")[0])


def test_equal_tokenizers_have_equal_fingerprints(folder, byte_level: Tokenizer) -> None:
    path = folder({"eos_token": "<|im_end|>"})
    assert read(path).fingerprint == read(path).fingerprint
    assert read(path).fingerprint != read(folder({"eos_token": "<|im_end|>", "add_eos_token": True})).fingerprint


# --- bad words ------------------------------------------------------------------------------------------------------


def test_bad_words_are_written_with_and_without_a_space(byte_level: Tokenizer) -> None:
    def ids(text: str) -> tuple[int, ...]:
        return tuple(byte_level.encode(text, add_special_tokens=False))

    assert bad_word_ids(byte_level, ["fox"]) == (ids("fox"), ids(" fox"))
    assert bad_word_ids(byte_level, [" fox", "fox"]) == (ids("fox"), ids(" fox"))
    assert bad_word_ids(byte_level, [" "])[0] == ids(" ")
    assert bad_word_ids(byte_level, ["\n"])[0] == ids("\n")
    assert bad_word_ids(byte_level, []) == ()


def test_bad_words_have_a_limit(byte_level: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match=rf"at most {MAX_BAD_WORD_TOKENS}") as caught:
        bad_word_ids(byte_level, ["fox", "日" * 100])
    assert caught.value.param == "$.bad_words[1]"
