"""SentencePiece vocabularies give SentencePiece's own ids, from GGUF metadata and from tokenizer.model."""

from pathlib import Path

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.core.errors import CorruptCheckpoint, UnsupportedModel
from quire.text.gguf_tokenizer import build_gguf_tokenizer
from quire.text.sentencepiece_model import read_sentencepiece_model
from quire.text.tokenizer import Tokenizer

CONTROLS = ("<s>", "</s>", "<unk>")
OPTIONS = {
    "llama": {},
    "gemma": dict(add_dummy_prefix=False, split_digits=True),
    "no-bytes": dict(byte_fallback=False),
    "small": dict(vocab_size=900),
    "across-words": dict(split_by_whitespace=False, add_dummy_prefix=False, vocab_size=2000),
}

# Runs and few letters, where the order of equal merges would show; and anything at all.
texts = st.one_of(
    st.text(alphabet="a b", max_size=40),
    st.text(alphabet=" \n=-.,", max_size=40),
    st.text(alphabet="abcdefghijklmnopqrstuvwxyz ABé月\n01", max_size=60),
    st.text(max_size=40),
).filter(lambda text: not any(control in text for control in CONTROLS))


@pytest.fixture(scope="module", params=OPTIONS)
def model(request: pytest.FixtureRequest, train_sentencepiece) -> tuple[bytes, bool]:
    options = OPTIONS[request.param]
    return train_sentencepiece(**options), options.get("add_dummy_prefix", True)


@pytest.fixture(scope="module")
def oracle(model: tuple[bytes, bool]) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=model[0])


@pytest.fixture(scope="module")
def ours(model, oracle, as_sentencepiece_metadata) -> Tokenizer:
    return Tokenizer(*build_gguf_tokenizer(as_sentencepiece_metadata(oracle, add_space_prefix=model[1]), "test"))


def test_corpus_gives_the_same_ids(oracle, ours: Tokenizer, corpus: list[str]) -> None:
    for text in corpus:
        if not any(control in text for control in CONTROLS):
            assert ours.encode(text) == oracle.encode(text), text


def test_corpus_comes_back(ours: Tokenizer, corpus: list[str]) -> None:
    has_bytes = ours.token_to_id("<0x00>") is not None
    for text in corpus:
        if has_bytes and not any(control in text for control in CONTROLS):
            assert ours.decode(ours.encode(text)) == text.replace("\u2581", " ")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=texts)
def test_any_text_gives_the_same_ids(oracle, ours: Tokenizer, text: str) -> None:
    assert ours.encode(text) == oracle.encode(text)


def test_valid_ids_decode_as_sentencepiece_does(oracle, ours: Tokenizer, corpus: list[str]) -> None:
    for text in corpus:
        ids = oracle.encode(text)
        if oracle.unk_id() not in ids:
            assert ours.decode(ids) == oracle.decode(ids)


@pytest.mark.parametrize("removes_spaces", [False, True])
def test_model_file_gives_the_same_ids(
    removes_spaces: bool, train_sentencepiece, corpus: list[str], tmp_path: Path
) -> None:
    data = train_sentencepiece(remove_extra_whitespaces=removes_spaces)
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    oracle = sentencepiece.SentencePieceProcessor(model_proto=data)
    built = read_sentencepiece_model(path)
    assert built.roles == {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    ours = Tokenizer(*built)
    for text in corpus:
        if not any(control in text for control in CONTROLS):
            assert ours.encode(text, add_special_tokens=False) == oracle.encode(text), text


def test_user_defined_symbols_are_found_whole(train_sentencepiece, corpus: list[str], tmp_path: Path) -> None:
    symbols = ["<think>", "ing", "\n\n", "==", "\u2581\u2581", "\u2581\u2581\u2581"]
    data = train_sentencepiece(user_defined_symbols=symbols, add_dummy_prefix=False)
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    oracle = sentencepiece.SentencePieceProcessor(model_proto=data)
    ours = Tokenizer(*read_sentencepiece_model(path))
    for text in [*corpus, "=====<think>ending\n\n\n<think><think>"]:
        if not any(control in text for control in CONTROLS):
            assert ours.encode(text, add_special_tokens=False) == oracle.encode(text), text


def test_unigram_models_are_refused(train_sentencepiece, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train_sentencepiece(model_type="unigram", vocab_size=800))
    with pytest.raises(UnsupportedModel, match="only BPE"):
        read_sentencepiece_model(path)


def test_normalizing_models_are_refused(train_sentencepiece, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train_sentencepiece(normalization_rule_name="nmt_nfkc"))
    with pytest.raises(UnsupportedModel, match="precompiled_charsmap"):
        read_sentencepiece_model(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_refused_or_read(
    train_sentencepiece_once: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    damaged = bytearray(train_sentencepiece_once)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, 400))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(1, len(damaged))) :]
    path = tmp_path / "tokenizer.model"
    path.write_bytes(bytes(damaged))
    try:
        read_sentencepiece_model(path)
    except (CorruptCheckpoint, UnsupportedModel) as error:
        assert str(path) in error.message


@pytest.fixture(scope="module")
def train_sentencepiece_once(train_sentencepiece) -> bytes:
    return train_sentencepiece(vocab_size=600)
