"""Builds a tokenizer from the metadata of a GGUF file.

Two kinds of vocabulary: "gpt2", byte-level BPE with its merges and the name of a pre-tokenizer, and "llama",
SentencePiece BPE with scores. Law: the same ids as the tokenizer the file was converted from. What a GGUF file does not
carry (whether a special token swallows the spaces around it, say) is taken as absent.
Source: the GGUF specification, section "Tokenizer", and the files that llama.cpp's converter writes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from quire.core.errors import CorruptCheckpoint, UnsupportedModel
from quire.text.backend import Built, add_tokens, frame
from quire.text.pre_tokenizers import pre_tokenization
from quire.text.sentencepiece_bpe import PieceType, build_sentencepiece_bpe

_PREFIX = "tokenizer.ggml."
_ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def build_gguf_tokenizer(metadata: Mapping[str, Any], source: str) -> Built:
    """The tokenizer that the metadata describes; ``source`` names the file in errors.

    Raises UnsupportedModel for kinds and pre-tokenizers that are not implemented, CorruptCheckpoint for metadata that
    contradicts itself.
    """
    fields = _Fields(metadata, source)
    kind = fields.value("model", str, None)
    if kind is None:
        raise UnsupportedModel(f"{source} carries no tokenizer (tokenizer.ggml.model). Give --tokenizer.")
    tokens = fields.strings("tokens")
    if tokens is None:
        raise CorruptCheckpoint(f"{source}: tokenizer.ggml.tokens is missing.")
    roles = _roles(fields, tokens)
    if kind == "gpt2":
        backend, add_bos = _byte_level(fields, tokens)
    elif kind == "llama":
        backend, add_bos = _sentencepiece(fields, tokens), True
    else:
        raise UnsupportedModel(
            f"{source}: vocabularies of kind {kind!r} (tokenizer.ggml.model) are not implemented; gpt2 and llama are. "
            "Give --tokenizer with a folder that has the model's tokenizer.json."
        )
    add_tokens(backend, [roles[role] for role in ("bos_token", "eos_token") if role in roles], special=True)
    bos = roles.get("bos_token") if fields.value("add_bos_token", bool, add_bos) else None
    eos = roles.get("eos_token") if fields.value("add_eos_token", bool, False) else None
    frame(backend, bos, eos)
    return Built(backend, roles, len(tokens))


class _Fields:
    """The tokenizer's fields, each with the type it must have."""

    def __init__(self, metadata: Mapping[str, Any], source: str) -> None:
        self._metadata = metadata
        self.source = source

    def value(self, name: str, wanted: type, default: Any) -> Any:
        found = self._metadata.get(_PREFIX + name, default)
        if found is not default and not isinstance(found, wanted):
            raise self.corrupt(name, f"is {str(found)[:80]!r}, where {wanted.__name__} is wanted")
        return found

    def strings(self, name: str) -> list[str] | None:
        found = self._metadata.get(_PREFIX + name)
        if found is not None and not (isinstance(found, list) and all(isinstance(item, str) for item in found)):
            raise self.corrupt(name, "is not an array of strings")
        return found

    def numbers(self, name: str, count: int, default: float | None) -> np.ndarray:
        """[count] numbers, or ``count`` times the default where the field is absent."""
        found = self._metadata.get(_PREFIX + name)
        if found is None and default is not None:
            return np.full(count, default)
        if not isinstance(found, np.ndarray) or found.shape != (count,) or not np.isfinite(found).all():
            raise self.corrupt(name, f"is not an array of {count} numbers, one for each token")
        return found

    def merges(self) -> list[tuple[str, str]] | None:
        lines = self.strings("merges")
        if lines is None:
            return None
        pairs: list[tuple[str, str]] = []
        for line in lines:
            left, _, right = line.partition(" ")
            if not left or not right or " " in right:
                raise self.corrupt("merges", f"has the entry {line[:80]!r}, which is not two tokens and a space")
            pairs.append((left, right))
        return pairs

    def corrupt(self, name: str, what: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(f"{self.source}: {_PREFIX}{name} {what}. Fetch or convert the file again.")


def _roles(fields: _Fields, tokens: Sequence[str]) -> dict[str, str]:
    roles: dict[str, str] = {}
    for role, name in _ROLES.items():
        token_id = fields.value(f"{name}_token_id", int, None)
        if token_id is None:
            continue
        if not 0 <= token_id < len(tokens):
            raise fields.corrupt(f"{name}_token_id", f"is {token_id}, but there are {len(tokens)} tokens")
        roles[role] = tokens[token_id]
    return roles


def _byte_level(fields: _Fields, tokens: Sequence[str]) -> tuple[Backend, bool]:
    """The backend, and whether texts begin with BOS where the file does not say."""
    merges = fields.merges()
    if merges is None:
        raise fields.corrupt("merges", "is missing")
    vocab = {token: index for index, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise fields.corrupt("tokens", f"has {len(tokens)} tokens, but only {len(vocab)} different ones")
    pre = pre_tokenization(fields.value("pre", str, "default"))
    try:
        backend = Backend(models.BPE(vocab, merges, ignore_merges=pre.ignore_merges))
    except Exception as error:  # the backend raises plain Exception
        raise fields.corrupt("merges", f"does not fit the tokens ({error})") from None
    normalizer = pre.normalizer()
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre.pre_tokenizer()
    backend.decoder = decoders.ByteLevel()
    types = fields.numbers("token_type", len(tokens), PieceType.NORMAL)
    for kind, special in ((PieceType.CONTROL, True), (PieceType.USER_DEFINED, False)):
        add_tokens(backend, [tokens[index] for index in np.flatnonzero(types == kind).tolist()], special=special)
    return backend, pre.add_bos


def _sentencepiece(fields: _Fields, tokens: Sequence[str]) -> Backend:
    merges = fields.merges()
    return build_sentencepiece_bpe(
        tokens,
        fields.numbers("scores", len(tokens), None if merges is None else 0.0),
        fields.numbers("token_type", len(tokens), PieceType.NORMAL),
        add_space_prefix=fields.value("add_space_prefix", bool, True),
        merges=merges,
        source=fields.source,
    )
