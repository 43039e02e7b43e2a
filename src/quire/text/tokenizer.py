"""Strings to token ids and back.

Owns the one tokenizer of a model, on the client's side of the engine; it is never changed after it is built, so any
thread may use it. Law: the text of ids is their tokens' bytes, joined, read as UTF-8 with U+FFFD for every maximal
invalid stretch; streams (``detokenizer``) give the same text piece by piece.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Backend

from quire.core.errors import InvalidRequest
from quire.text.folder_tokenizer import build_folder_tokenizer
from quire.text.gguf_tokenizer import build_gguf_tokenizer
from quire.text.token_bytes import ByteTable, PartlyHidden, TokenSpelling

if TYPE_CHECKING:
    from quire.checkpoint.checkpoint import Checkpoint


class Tokenizer:
    """A model's tokenizer. ``roles`` maps "bos_token", "eos_token", "unk_token", "pad_token" to tokens, where they are.

    Raises UnsupportedModel for a backend whose tokens cannot be turned into bytes.
    """

    def __init__(self, backend: Backend, roles: Mapping[str, str], vocab_size: int | None = None) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.roles = dict(roles)
        self._known_vocab_size = vocab_size
        added = backend.get_added_tokens_decoder()
        self.special_token_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        spelling = TokenSpelling(backend)
        self.num_stripped_spaces = spelling.num_stripped_spaces
        """Leading spaces that a whole text loses when decoded (SentencePiece's artificial one)."""
        self._all_bytes = ByteTable(backend, spelling, frozenset(added), frozenset())
        self._shown_bytes = ByteTable(backend, spelling, frozenset(added), self.special_token_ids)

    @classmethod
    def from_checkpoint(cls, checkpoint: "Checkpoint") -> "Tokenizer":
        """The tokenizer of a folder or GGUF file; raises CorruptCheckpoint or UnsupportedModel."""
        if checkpoint.gguf is not None:
            return cls(*build_gguf_tokenizer(checkpoint.gguf.metadata, str(checkpoint.path)))
        return cls(*build_folder_tokenizer(checkpoint))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Ids of a text. Special tokens written out in the text count as such, since chat templates write them.

        ``add_special_tokens`` frames the text with BOS and EOS where the model wants them.
        """
        try:
            ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        except TypeError:
            _check_well_formed(text)
            raise
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of ids; raises InvalidRequest for ids outside the vocabulary."""
        for position, token_id in enumerate(ids):
            if not 0 <= token_id < self.vocab_size:
                raise InvalidRequest(
                    f"Token id {token_id} at position {position} is out of vocabulary: ids go from 0 to "
                    f"{self.vocab_size - 1}.",
                    param=f"$.tokens[{position}]",
                )
        table = self.byte_table(skip_special_tokens)
        text = b"".join([table[token_id] for token_id in ids]).decode("utf-8", "replace")
        return strip_spaces(text, self.num_stripped_spaces)

    def byte_table(self, skip_special_tokens: bool, shown: frozenset[int] = frozenset()) -> Mapping[int, bytes]:
        """Token id -> bytes in decoded text: none for ids outside the vocabulary, nor for special ones if skipped.

        Those in ``shown`` are not skipped.
        """
        if not skip_special_tokens:
            return self._all_bytes
        return PartlyHidden(self._shown_bytes, self._all_bytes, shown) if shown else self._shown_bytes

    @cached_property
    def vocab_size(self) -> int:
        """Highest id + 1; may differ from the model's, whose embedding can be padded."""
        if self._known_vocab_size is not None:
            return self._known_vocab_size
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def token_to_id(self, token: str) -> int | None:
        """Id of a token as the vocabulary writes it."""
        token_id: int | None = self._backend.token_to_id(token)
        return token_id

    def id_to_token(self, token_id: int) -> str | None:
        """A token as the vocabulary writes it, "Ġthe" or "▁the"; None for ids that are not there."""
        token: str | None = self._backend.id_to_token(token_id) if 0 <= token_id < self.vocab_size else None
        return token

    def added_tokens(self) -> dict[str, dict[str, Any]]:
        """Tokens beside the trained vocabulary, as tokenizer_config.json's added_tokens_decoder has them."""
        return {
            str(token_id): {
                "content": token.content,
                "single_word": token.single_word,
                "lstrip": token.lstrip,
                "rstrip": token.rstrip,
                "normalized": token.normalized,
                "special": token.special,
            }
            for token_id, token in self._backend.get_added_tokens_decoder().items()
        }

    def is_special(self, token_id: int) -> bool:
        return token_id in self.special_token_ids

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to a text; special tokens have their names', unknown ids none."""
        return self._all_bytes[token_id]

    def token_text(self, token_id: int) -> str:
        """The text of a token alone, with U+FFFD for parts of characters."""
        return self._all_bytes[token_id].decode("utf-8", "replace")

    @property
    def bos_token(self) -> str | None:
        return self.roles.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        return self.roles.get("eos_token")

    @property
    def bos_token_id(self) -> int | None:
        return None if self.bos_token is None else self.token_to_id(self.bos_token)

    @property
    def eos_token_id(self) -> int | None:
        return None if self.eos_token is None else self.token_to_id(self.eos_token)

    @cached_property
    def fingerprint(self) -> str:
        """Equal for tokenizers that behave alike, whatever files they come from. Costs a moment when first asked."""
        return hashlib.blake2b(self._backend.to_str().encode(), digest_size=16).hexdigest()


def _check_well_formed(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"The text holds the lone surrogate {text[error.start]!r} at character {error.start}, which is no "
            "character: send well-formed Unicode."
        ) from None


def strip_spaces(text: str, most: int) -> str:
    """Without its leading spaces, ``most`` of them at most."""
    count = 0
    while count < most and text.startswith(" ", count):
        count += 1
    return text[count:]
