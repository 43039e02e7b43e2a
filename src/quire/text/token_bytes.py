"""Which bytes a token stands for, read off the tokenizer's own decoder.

Text is then always the tokens' bytes, joined and read as UTF-8, with U+FFFD for what is not UTF-8: one law for whole
texts, single tokens and streams. Two decoders are understood, which between them cover the vocabularies of
generative models: byte-level (characters of ``byte_alphabet``) and SentencePiece (U+2581 for a space, ``<0x0A>`` for a
byte, perhaps one leading space dropped from the whole text).
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer as Backend

from quire.core.errors import UnsupportedModel
from quire.text.byte_alphabet import spelled_bytes

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenSpelling:
    """How the tokens of one vocabulary are spelled.

    ``num_stripped_spaces``: how many leading spaces are dropped from a whole text (never from a continuation).
    Raises UnsupportedModel for a decoder that is neither byte-level nor SentencePiece's.
    """

    def __init__(self, backend: Backend) -> None:
        self._is_byte_level = False
        self._has_byte_pieces = False
        self._replacements: list[tuple[str, str]] = []
        self.num_stripped_spaces = 0
        decoder = None if backend.decoder is None else json.loads(backend.decoder.__getstate__())
        for step in _steps(decoder):
            self._apply(step)

    def spelled(self, token: str, is_added: bool) -> bytes:
        """The bytes of a token. Added tokens of byte-level vocabularies are stored as plain text."""
        if self._is_byte_level:
            return token.encode() if is_added else spelled_bytes(token)
        if self._has_byte_pieces and (byte := _BYTE_PIECE.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        for written, meant in self._replacements:
            token = token.replace(written, meant)
        return token.encode()

    def _apply(self, step: Mapping[str, Any]) -> None:
        match step:
            case {"type": "ByteLevel"}:
                self._is_byte_level = True
            case {"type": "ByteFallback"}:
                self._has_byte_pieces = True
            case {"type": "Fuse"}:
                pass  # joins the pieces, as we always do
            case {"type": "Replace", "pattern": {"String": written}, "content": meant}:
                self._replacements.append((written, meant))
            case {"type": "Strip", "content": " ", "start": start, "stop": 0}:
                self.num_stripped_spaces = start
            case {"type": "Metaspace", "replacement": written, "prepend_scheme": scheme}:
                self._replacements.append((written, " "))
                self.num_stripped_spaces = 0 if scheme == "never" else 1
            case _:
                raise UnsupportedModel(
                    f"The tokenizer's decoder has a step {json.dumps(dict(step))[:200]}, which is not implemented: "
                    "byte-level and SentencePiece decoders are."
                )


def _steps(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if decoder is None:
        raise UnsupportedModel("The tokenizer has no decoder, so its tokens cannot be turned into text.")
    if decoder["type"] == "Sequence":
        return [inner for step in decoder["decoders"] for inner in _steps(step)]
    return [decoder]


class ByteTable(dict[int, bytes]):
    """Token id -> its bytes, filled as ids are met; ids in ``hidden`` and outside the vocabulary have none."""

    def __init__(
        self, backend: Backend, spelling: TokenSpelling, added: frozenset[int], hidden: frozenset[int]
    ) -> None:
        super().__init__()
        self._backend = backend
        self._spelling = spelling
        self._added = added
        self._hidden = hidden

    def __missing__(self, token_id: int) -> bytes:
        token = self._backend.id_to_token(token_id) if token_id >= 0 else None
        if token is None or token_id in self._hidden:
            value = b""
        else:
            value = self._spelling.spelled(token, token_id in self._added)
        self[token_id] = value
        return value


class PartlyHidden(dict[int, bytes]):
    """The table ``usual``, but for the ids in ``shown``, whose bytes are those of ``whole``."""

    def __init__(self, usual: ByteTable, whole: ByteTable, shown: frozenset[int]) -> None:
        super().__init__((token_id, whole[token_id]) for token_id in shown)
        self._usual = usual

    def __missing__(self, token_id: int) -> bytes:
        return self._usual[token_id]
