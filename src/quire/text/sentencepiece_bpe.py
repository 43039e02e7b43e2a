"""Builds a tokenizer from a SentencePiece BPE vocabulary: pieces, scores and types.

SentencePiece always joins the two neighbours whose joined text is the piece of the highest score. The backend wants an
ordered list of pairs instead, so every piece is written as each pair of pieces it can be made of, best score first.
Characters that are no piece become byte pieces, or the unknown piece where there are none.
Law: same ids as SentencePiece's, for vocabularies trained by it. Where overlapping pairs make the *same* piece
("aa"+"a", "a"+"aa"), SentencePiece takes the leftmost and the backend the first listed; the longer left half is listed
first, which is the leftmost in the runs of equal characters where this can happen.
Source: Kudo and Richardson, "SentencePiece", 2018, and the piece types of its model format.
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from tokenizers import Regex, decoders, models, normalizers
from tokenizers import Tokenizer as Backend

from quire.core.errors import CorruptCheckpoint
from quire.text.backend import add_tokens

SPACE = "\u2581"


class PieceType(IntEnum):
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def build_sentencepiece_bpe(
    pieces: Sequence[str],
    scores: np.ndarray,
    types: np.ndarray,
    *,
    add_space_prefix: bool,
    remove_extra_spaces: bool = False,
    merges: Sequence[tuple[str, str]] | None = None,
    source: str,
) -> Backend:
    """A backend for [V] pieces with their scores and types; a piece's index is its id.

    ``add_space_prefix`` puts a space before every stretch of text that begins the input or follows a special token.
    ``merges`` replaces the list made from the scores. ``source`` names the file in errors. Raises CorruptCheckpoint.
    """
    if len(scores) != len(pieces) or len(types) != len(pieces):
        raise CorruptCheckpoint(
            f"{source}: the vocabulary has {len(pieces)} pieces, but {len(scores)} scores and {len(types)} types."
        )
    # SentencePiece looks for user-defined pieces in escaped text, where a space is U+2581. With the prefix this cannot
    # be done here, since it would also be put before what follows them, so they are looked for in the text as it is.
    space = " " if add_space_prefix else SPACE
    pieces = list(pieces)
    for index in np.flatnonzero(types == PieceType.USER_DEFINED).tolist():
        pieces[index] = pieces[index].replace(SPACE, " ").replace(" ", space)
    vocab = {piece: index for index, piece in enumerate(pieces)}
    if len(vocab) != len(pieces):
        raise CorruptCheckpoint(f"{source}: of the vocabulary's {len(pieces)} pieces only {len(vocab)} are different.")
    unknown = _of_type(pieces, types, PieceType.UNKNOWN)
    has_bytes = bool(np.any(types == PieceType.BYTE))
    if merges is None:
        merges = _merges(pieces, scores, types)
    unk_token = unknown[0] if unknown else None
    try:
        backend = Backend(models.BPE(vocab, merges, unk_token=unk_token, fuse_unk=True, byte_fallback=has_bytes))
    except Exception as error:  # the backend raises plain Exception
        raise CorruptCheckpoint(f"{source}: the merges do not fit the vocabulary ({error}).") from None
    backend.normalizer = _normalizer(add_space_prefix, remove_extra_spaces)
    strip = [decoders.Strip(" ", 1, 0)] if add_space_prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    add_tokens(backend, [*unknown, *_of_type(pieces, types, PieceType.CONTROL)], special=True)
    user_defined = _of_type(pieces, types, PieceType.USER_DEFINED)
    add_tokens(backend, user_defined, special=False, normalized=not add_space_prefix)
    return backend


def _of_type(pieces: Sequence[str], types: np.ndarray, kind: PieceType) -> list[str]:
    return [pieces[index] for index in np.flatnonzero(types == kind).tolist()]


def _merges(pieces: Sequence[str], scores: np.ndarray, types: np.ndarray) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece, best first; half a second for Gemma's quarter of a million pieces."""
    normal = np.flatnonzero(types == PieceType.NORMAL)
    ranked = [pieces[index] for index in normal[np.argsort(-scores[normal], kind="stable")].tolist()]
    known = set(ranked)
    return [
        (left, right)
        for piece in ranked
        for cut in range(len(piece) - 1, 0, -1)
        if (left := piece[:cut]) in known and (right := piece[cut:]) in known
    ]


def _normalizer(add_space_prefix: bool, remove_extra_spaces: bool) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if remove_extra_spaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if add_space_prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    return normalizers.Sequence(steps)
