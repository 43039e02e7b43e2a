"""Builds a tokenizer from the files of a Hugging Face folder.

In order of preference: tokenizer.json, vocab.json with merges.txt (byte-level BPE), tokenizer.model (SentencePiece).
tokenizer_config.json then has the last word on added tokens, on roles, and on whether texts are framed by BOS and EOS.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as Backend

from quire.core.errors import CorruptCheckpoint, UnsupportedModel
from quire.text.backend import Built, add_tokens, frame
from quire.text.pre_tokenizers import pre_tokenization
from quire.text.sentencepiece_model import read_sentencepiece_model

if TYPE_CHECKING:
    from quire.checkpoint.checkpoint import Checkpoint

_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
_PRE_TOKENIZERS = {"gpt2": "gpt-2", "qwen2": "qwen2", "qwen3": "qwen2", "qwen3_moe": "qwen2"}
"""What a model_type's vocab.json and merges.txt leave unsaid."""


def build_folder_tokenizer(checkpoint: "Checkpoint") -> Built:
    """The folder's tokenizer; raises CorruptCheckpoint, or UnsupportedModel where no usable file is there."""
    config = _json(checkpoint.file("tokenizer_config.json"))
    backend, roles, _ = _vocabulary(checkpoint)
    _add_declared(backend, config)
    for source in (_json(checkpoint.file("special_tokens_map.json")), config):
        for role in _ROLES:
            if role in source:
                roles.pop(role, None)
                if (token := _content(source[role])) is not None:
                    roles[role] = token
    # A role whose token is not in the vocabulary would get an id that the model does not have.
    roles = {role: token for role, token in roles.items() if backend.token_to_id(token) is not None}
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    add_tokens(backend, [token for token in roles.values() if token not in known], special=True)
    add_bos, add_eos = config.get("add_bos_token"), config.get("add_eos_token")
    if isinstance(add_bos, bool) or isinstance(add_eos, bool):
        frame(backend, roles.get("bos_token") if add_bos else None, roles.get("eos_token") if add_eos else None)
    return Built(backend, roles)


def _vocabulary(checkpoint: "Checkpoint") -> Built:
    if (path := checkpoint.file("tokenizer.json")) is not None:
        try:
            return Built(Backend.from_file(str(path)), {})
        except Exception as error:  # the backend raises plain Exception
            raise CorruptCheckpoint(f"{path} cannot be read as a tokenizer: {error}") from None
    vocab, merges = checkpoint.file("vocab.json"), checkpoint.file("merges.txt")
    if vocab is not None and merges is not None:
        return Built(_byte_level(vocab, merges, str(checkpoint.config.get("model_type"))), {})
    if (path := checkpoint.file("tokenizer.model")) is not None:
        built = read_sentencepiece_model(path)
        frame(built.backend, built.roles.get("bos_token"), None)
        return built
    raise UnsupportedModel(
        f"{checkpoint.path} has no tokenizer: neither tokenizer.json, nor vocab.json with merges.txt, nor "
        "tokenizer.model. Give --tokenizer with the model or folder to take it from."
    )


def _byte_level(vocab_path: Path, merges_path: Path, model_type: str) -> Backend:
    if model_type not in _PRE_TOKENIZERS:
        raise UnsupportedModel(
            f"{vocab_path} does not say how text is cut into words, and for models of type {model_type!r} it is not "
            "known here. Save the tokenizer as tokenizer.json with the transformers library."
        )
    lines = merges_path.read_text(encoding="utf-8").split("\n")
    if lines and lines[0].startswith("#version"):
        del lines[0]
    merges = [(left, right) for left, _, right in (line.rstrip("\r").partition(" ") for line in lines) if left]
    pre = pre_tokenization(_PRE_TOKENIZERS[model_type])
    try:
        backend = Backend(models.BPE(_json(vocab_path), merges, ignore_merges=pre.ignore_merges))
    except Exception as error:  # the backend raises plain Exception
        raise CorruptCheckpoint(f"{merges_path} does not fit {vocab_path}: {error}") from None
    normalizer = pre.normalizer()
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre.pre_tokenizer()
    backend.decoder = decoders.ByteLevel()
    return backend


def _add_declared(backend: Backend, config: dict[str, Any]) -> None:
    """Add what added_tokens_decoder lists and the vocabulary file did not, in the order of their ids."""
    declared = config.get("added_tokens_decoder") or {}
    known = backend.get_added_tokens_decoder()
    try:
        wanted = sorted((int(key), dict(entry)) for key, entry in declared.items())
    except (AttributeError, TypeError, ValueError):
        raise CorruptCheckpoint("tokenizer_config.json: added_tokens_decoder is not a map of ids to tokens.") from None
    for token_id, entry in wanted:
        content = _content(entry)
        if content is None or token_id in known:
            continue
        flags = {name: bool(entry.get(name)) for name in ("single_word", "lstrip", "rstrip", "normalized")}
        token = AddedToken(content, **flags, special=bool(entry.get("special")))
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])
        if backend.token_to_id(content) != token_id:
            raise CorruptCheckpoint(
                f"tokenizer_config.json gives the token {content!r} the id {token_id}, but the vocabulary gives it "
                f"{backend.token_to_id(content)}."
            )


def _content(value: Any) -> str | None:
    """The text of a token that is written as a string or as {"content": ...}."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) and text else None


def _json(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise CorruptCheckpoint(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise CorruptCheckpoint(f"{path} holds a {type(value).__name__}, where an object is wanted.")
    return value
