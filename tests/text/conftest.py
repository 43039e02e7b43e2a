"""Small tokenizers of every kind, trained in the moment, and the corpus they are compared on."""

import io
import json
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from llguidance import LLMatcher, LLTokenizer
from llguidance._tokenizer import TokenizerWrapper
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from quire.text.dialects.dialect import Parser, Tool, ToolDialect
from quire.text.dialects.events import CallArguments, CallBegun, Reply
from quire.text.gguf_tokenizer import build_gguf_tokenizer
from quire.text.tokenizer import Tokenizer

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PLAIN_ADDED = ["<think>", "</think>"]
_SEPARATOR = "\x1e\n"


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    """Texts in many languages, code, numbers, whitespace, emoji, control characters, special tokens spelled out."""
    whole = (Path(__file__).parent / "corpus.txt").read_bytes().decode()
    return whole.split(_SEPARATOR)[:-1]


@pytest.fixture(scope="session")
def train_byte_level(corpus: list[str]):
    """(pre_tokenizer, normalizer, ignore_merges) -> a byte-level BPE backend, trained on the corpus."""

    def train(
        pre_tokenizer: pre_tokenizers.PreTokenizer, normalizer: Any = None, ignore_merges: bool = False
    ) -> Backend:
        backend = Backend(models.BPE(ignore_merges=ignore_merges))
        backend.pre_tokenizer = pre_tokenizer
        if normalizer is not None:
            backend.normalizer = normalizer
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=1500,
            min_frequency=1,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(corpus, trainer)
        backend.add_tokens([AddedToken(token, normalized=False) for token in PLAIN_ADDED])
        return backend

    return train


@pytest.fixture(scope="session")
def byte_level(train_byte_level) -> Tokenizer:
    return Tokenizer(train_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)), {"eos_token": "<|im_end|>"})


@pytest.fixture(scope="session")
def train_sentencepiece(corpus: list[str]):
    """options of the trainer -> the bytes of a SentencePiece BPE model, trained on the corpus."""

    def train(**options: Any) -> bytes:
        model = io.BytesIO()
        defaults = dict(
            model_type="bpe",
            vocab_size=1200,
            byte_fallback=True,
            character_coverage=0.98,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        lines = [line for text in corpus[::2] for line in text.split("\n") if line] * 2
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, **{**defaults, **options}
        )
        return model.getvalue()

    return train


def byte_level_metadata(backend: Backend, pre: str, **extra: Any) -> dict[str, Any]:
    """What a GGUF file would say of a byte-level backend."""
    merges = json.loads(backend.model.__getstate__())["merges"]
    vocab = sorted(backend.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    added = backend.get_added_tokens_decoder()
    types = [1 if index not in added else 3 if added[index].special else 4 for _, index in vocab]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [token for token, _ in vocab],
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in merges],
        "tokenizer.ggml.add_bos_token": False,
        **{f"tokenizer.ggml.{name}": value for name, value in extra.items()},
    }


def sentencepiece_metadata(oracle: sentencepiece.SentencePieceProcessor, **extra: Any) -> dict[str, Any]:
    """What a GGUF file would say of a SentencePiece model."""

    def kind(index: int) -> int:
        if oracle.IsUnknown(index):
            return 2
        if oracle.IsControl(index):
            return 3
        if oracle.IsByte(index):
            return 6
        return 5 if oracle.IsUnused(index) else 1

    ids = range(oracle.GetPieceSize())
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [oracle.IdToPiece(index) for index in ids],
        "tokenizer.ggml.scores": np.array([oracle.GetScore(index) for index in ids], np.float32),
        "tokenizer.ggml.token_type": np.array([kind(index) for index in ids], np.int32),
        "tokenizer.ggml.add_bos_token": False,
        **{f"tokenizer.ggml.{name}": value for name, value in extra.items()},
    }


@pytest.fixture(scope="session")
def as_byte_level_metadata():
    return byte_level_metadata


@pytest.fixture(scope="session")
def as_sentencepiece_metadata():
    return sentencepiece_metadata


@pytest.fixture(scope="session")
def sentencepiece_tokenizer(train_sentencepiece) -> Tokenizer:
    """With byte pieces and an artificial leading space."""
    oracle = sentencepiece.SentencePieceProcessor(model_proto=train_sentencepiece())
    return Tokenizer(*build_gguf_tokenizer(sentencepiece_metadata(oracle, eos_token_id=2, bos_token_id=1), "test"))


@pytest.fixture(scope="session")
def read_reply():
    """(a maker of parsers, text) -> the Reply, the same whole, in characters, and in odd pieces."""

    def pieces_of(parser: Parser, pieces: Iterable[str]) -> Reply:
        events = [event for piece in pieces for event in parser.push(piece)] + parser.finish()
        for before, event in pairwise(events):
            if isinstance(event, CallArguments):
                assert isinstance(before, CallBegun | CallArguments) and before.index == event.index
        return Reply.of(events)

    def read(make: Callable[[], Parser], text: str, *sizes: int) -> Reply:
        whole = pieces_of(make(), [text])
        for size in sizes or (1, 3, 7):
            assert pieces_of(make(), (text[at : at + size] for at in range(0, len(text), size))) == whole
        return whole

    return read


class Bytes:
    """A tokenizer of 256 bytes and special tokens."""

    bos_token_id = None
    eos_token_id = 256

    def __init__(self, special: tuple[str, ...]) -> None:
        self.ids = {name: 257 + i for i, name in enumerate(special)}
        self.tokens = [bytes([i]) for i in range(256)] + [name.encode() for name in ("<eos>", *special)]
        self.special_token_ids = list(range(256, 257 + len(special)))

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)

    def encode(self, text: str) -> list[int]:
        """Special tokens where their names stand."""
        ids: list[int] = []
        while text:
            name = next((name for name in self.ids if text.startswith(name)), None)
            ids += [self.ids[name]] if name else self(text[0])
            text = text[len(name) if name else 1 :]
        return ids


@pytest.fixture(scope="session")
def special_ids():
    """(special tokens) -> their ids, in the vocabulary of ``matches``."""
    return lambda special: Bytes(special).ids


@pytest.fixture(scope="session")
def matches():
    """(grammar, special tokens, text) -> whether the text, and no more than it, is what the grammar asks for."""

    def matches(grammar: str, special: tuple[str, ...], text: str) -> bool:
        bytes_ = Bytes(special)
        tokenizer = LLTokenizer(TokenizerWrapper(bytes_))
        assert LLMatcher.validate_grammar(grammar, tokenizer) == ""
        matcher = LLMatcher(tokenizer, grammar)
        ids = bytes_.encode(text)
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    return matches


@pytest.fixture(scope="session")
def grammar_accepts(matches, special_ids):
    """(family, tools, special tokens, text) -> whether the text is what the family's grammar asks for."""

    def accepts(
        family: ToolDialect, tools: Sequence[Tool], special: tuple[str, ...], text: str, at_most_one: bool = False
    ) -> bool:
        rules = family.grammar(tools, at_most_one=at_most_one, special=special_ids(special))
        return matches(LLMatcher.grammar_from_lark(f"start: calls\n{rules}"), special, text)

    return accepts
