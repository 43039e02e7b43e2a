"""Token ids to text as they come, never half a character.

One object per continuation, on the client's side. Works on bytes, so it costs a constant amount per token whatever was
said before. Law, for any way of cutting the ids into pushes:

    everything pushed + flush == tokenizer.decode(ids)                      after a prompt that shows nothing
    complete(prompt) + everything pushed + flush == tokenizer.decode(prompt + ids)     in general

where complete(prompt) is the prompt's text up to its last complete character. So a continuation keeps its leading space
("Hello" + "▁world"), and a character whose first bytes end the prompt comes out whole.
"""

import codecs
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from quire.text.tokenizer import strip_spaces

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer


class Detokenizer:
    """The text of one continuation of ``prompt_ids``. Ids outside the vocabulary have no text (padded embeddings).

    ``shown_special_token_ids`` are shown even where special tokens are skipped.
    ``spaces_between_special_tokens`` is for tokenizers that put spaces there; none that is supported here does, so both
    settings mean the same.
    """

    def __init__(
        self,
        tokenizer: "Tokenizer",
        prompt_ids: Sequence[int],
        *,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
        shown_special_token_ids: Sequence[int] = (),
    ) -> None:
        self.table = tokenizer.byte_table(skip_special_tokens, frozenset(shown_special_token_ids))
        """Token id -> its bytes."""
        self._has_bytes = False
        tail = self._tail(prompt_ids)
        self._strippable = 0 if tail else tokenizer.num_stripped_spaces
        self._pending = _incomplete(tail)
        """Bytes of a character that is not whole yet."""

    def push(self, token_id: int) -> str:
        """The new text that one further id makes certain."""
        data = self.table[token_id]
        if not data:
            return ""
        self._has_bytes = True
        if self._pending:
            data = self._pending + data
        text, size = codecs.utf_8_decode(data, "replace", False)
        self._pending = data[size:]
        return self._stripped(text) if self._strippable else text

    @property
    def is_even(self) -> bool:
        """Whether the next id that is whole characters adds just these, and leaves everything here as it is."""
        return not self._pending and not self._strippable

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that stayed incomplete. Then it may not be pushed to."""
        # What a prompt left incomplete is not this text's concern if nothing followed.
        return self._pending.decode("utf-8", "replace") if self._has_bytes else ""

    def _stripped(self, text: str) -> str:
        rest = strip_spaces(text, self._strippable)
        self._strippable = 0 if rest else self._strippable - len(text)
        return rest

    def _tail(self, prompt_ids: Sequence[int]) -> bytes:
        """The last bytes of the prompt: none only if it shows nothing, else as many as the longest character or all."""
        tail = b""
        for token_id in reversed(prompt_ids):
            tail = self.table[token_id] + tail
            if len(tail) >= 4:
                break
        return tail


def _incomplete(data: bytes) -> bytes:
    """The trailing bytes that may yet become a character."""
    num_following = sum(1 for _ in takewhile(lambda byte: byte & 0xC0 == 0x80, reversed(data[-3:])))
    start = len(data) - num_following - 1
    if start < 0 or data[start] < 0xC0:
        return b""
    text, _ = codecs.utf_8_decode(data[start:], "replace", False)
    return b"" if text else data[start:]
