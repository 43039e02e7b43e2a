"""Reads a SentencePiece ``tokenizer.model`` file, which is a small protocol buffer.

Only what BPE tokenization depends on is read. Law: every length is checked against the bytes that are left, so a
hostile file costs no more than its size. Source: sentencepiece_model.proto.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from quire.core.errors import CorruptCheckpoint, UnsupportedModel
from quire.text.backend import Built
from quire.text.sentencepiece_bpe import PieceType, build_sentencepiece_bpe

MAX_FILE_BYTES = 64 * 2**20
_BPE = 2
_FLOAT = struct.Struct("<f")

# field numbers of ModelProto, then of the three messages in it
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE_TEXT, _PIECE_SCORE, _PIECE_TYPE = 1, 2, 3
_MODEL_TYPE = 3
_CHARSMAP, _ADD_DUMMY_PREFIX, _REMOVE_EXTRA_SPACES = 2, 3, 4
_ROLES = {40: "unk_token", 41: "bos_token", 42: "eos_token", 43: "pad_token"}
_DEFAULT_ROLES = {40: 0, 41: 1, 42: 2, 43: -1}


def read_sentencepiece_model(path: Path) -> Built:
    """The tokenizer in the file; raises CorruptCheckpoint, or UnsupportedModel for models that are not BPE."""
    data = path.read_bytes() if path.stat().st_size <= MAX_FILE_BYTES else b""
    try:
        return _build(data, str(path))
    except (ValueError, IndexError, struct.error) as error:
        raise CorruptCheckpoint(
            f"{path} is not a SentencePiece model of at most {MAX_FILE_BYTES} bytes ({error}). If it is of another "
            "kind, save the tokenizer as tokenizer.json with the transformers library."
        ) from None


def _build(data: bytes, source: str) -> Built:
    pieces: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data):
        if number == _PIECES:
            piece = dict(_fields(_bytes(value)))
            pieces.append(_bytes(piece[_PIECE_TEXT]).decode() if _PIECE_TEXT in piece else "")
            scores.append(_FLOAT.unpack(_bytes(piece[_PIECE_SCORE]))[0] if _PIECE_SCORE in piece else 0.0)
            types.append(_int(piece.get(_PIECE_TYPE, PieceType.NORMAL)))
        elif number == _TRAINER:
            trainer = dict(_fields(_bytes(value)))
        elif number == _NORMALIZER:
            normalizer = dict(_fields(_bytes(value)))
    if not pieces:
        raise ValueError("it holds no pieces")
    model_type = _int(trainer.get(_MODEL_TYPE, 1))
    if model_type != _BPE:
        raise UnsupportedModel(
            f"{source} is a SentencePiece model of type {model_type}; only BPE ({_BPE}) is implemented. "
            "Save the tokenizer as tokenizer.json with the transformers library."
        )
    if normalizer.get(_CHARSMAP):
        raise UnsupportedModel(
            f"{source} normalizes characters by a table (precompiled_charsmap), which is not implemented. "
            "Save the tokenizer as tokenizer.json with the transformers library."
        )
    backend = build_sentencepiece_bpe(
        pieces,
        np.array(scores),
        np.array(types),
        add_space_prefix=bool(normalizer.get(_ADD_DUMMY_PREFIX, 1)),
        remove_extra_spaces=bool(normalizer.get(_REMOVE_EXTRA_SPACES, 1)),
        source=source,
    )
    ids = {role: _signed(_int(trainer.get(field, _DEFAULT_ROLES[field]))) for field, role in _ROLES.items()}
    return Built(backend, {role: pieces[index] for role, index in ids.items() if 0 <= index < len(pieces)})


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of one message: integers, or the bytes of floats, strings and messages."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        match tag & 7:
            case 0:
                value, position = _varint(data, position)
                yield tag >> 3, value
                continue
            case 1:
                length = 8
            case 2:
                length, position = _varint(data, position)
            case 5:
                length = 4
            case wire_type:
                raise ValueError(f"wire type {wire_type} at byte {position}")
        if length > len(data) - position:
            raise ValueError(f"a field claims {length} bytes, but {len(data) - position} are left")
        yield tag >> 3, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"a number at byte {position} has no end")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError(f"found the number {value} where bytes are wanted")
    return value


def _int(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("found bytes where a number is wanted")
    return value


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
