"""A model's tokens as llguidance wants them: what a matcher needs beside its grammar.

Made of the tokenizer's own bytes of tokens, so that masks agree with the text that clients get, for every kind of
tokenizer and file. Special tokens, and those that end a sequence, are never part of text: a grammar takes one only
where it names it, and an end only where it is complete.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from quire.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_BEFORE = "\n"
"""Stands before a text that is tokenized as a continuation: SentencePiece begins texts with a space of its own."""
_WORD, _STRING = r"[ A-Za-z]", r'[^"\\\x00-\x1F\x7F]'
_SLICES = (
    r"[\x20\x0A\x0D\x09]+",
    *(f"{_WORD}{{1,{length}}}" for length in (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16)),
    *(f"{_STRING}{{1,{length}}}" for length in (3, 6, 10, 16, 30)),
    f"{_STRING}+",
)
"""Tokens in groups, each token in the first that it matches. A group of which a grammar takes every text is allowed as
a whole; of others, tokens are looked at one by one. So lengths are for strings that may have only so many characters
more, and words for regexes. Measured with 49,152 tokens, beside the library's own groups: a mask of answers with many
short strings takes 45 to 70 us in the mean instead of 80 to 105, one of a regex of words 27 instead of 500 to 600."""
_MAX_FORCED_CHARS = 256
_NUM_UNSURE = 4
_NUM_KEPT = 1024
"""Forced texts whose tokens are remembered: sequences of one grammar come by the same ones."""


class Vocabulary:
    """Tokens by their ids. What it is made of is public, so that it can be sent to another process.

    ``tokens``: the bytes of each id up to the width of a mask; none for ids that are no token. ``encode``: text to ids
    as the model's tokenizer would, by which text that is forced becomes tokens; where it has none, or there is no
    ``encode``, those are the longest tokens that fit.
    """

    # What llguidance reads.
    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(
        self,
        tokens: Sequence[bytes],
        special_token_ids: Sequence[int],
        eos_token_ids: Sequence[int],
        encode: Callable[[str], list[int]] | None = None,
    ) -> None:
        # The byte 0xFF is in no text, and llguidance keeps it for special tokens.
        self.tokens = [b"" if token.startswith(b"\xff") else token for token in tokens]
        self.eos_token_ids = [token for token in eos_token_ids if token < len(self.tokens)]
        if not self.eos_token_ids:  # a model without an end: an id that nobody can choose
            self.eos_token_ids = [len(self.tokens)]
            self.tokens.append(b"")
        self.eos_token_id = self.eos_token_ids[0]
        self.special_token_ids = sorted({*special_token_ids, *self.eos_token_ids})
        self._encode = encode
        self._forced = lru_cache(_NUM_KEPT)(self._tokenize)

    @classmethod
    def of(cls, tokenizer: Tokenizer, eos_token_ids: Sequence[int], vocab_size: int | None = None) -> "Vocabulary":
        """``vocab_size``: how wide the model's logits are, where they are wider than the tokenizer's ids."""
        num_known = tokenizer.vocab_size
        width = max(num_known, vocab_size or 0)
        tokens = [tokenizer.token_bytes(token) if token < num_known else b"" for token in range(width)]

        def encode(text: str) -> list[int]:
            return _continuation(tokenizer, text)

        return cls(tokens, sorted(tokenizer.special_token_ids), eos_token_ids, encode)

    def build(self) -> "LLTokenizer":
        """The vocabulary as a trie, to be shared by all matchers. Takes 0.2 s for 49,152 tokens, 1.1 s for 262,144."""
        from llguidance import LLTokenizer

        return LLTokenizer(self, eos_token=self.eos_token_ids, slices=list(_SLICES))  # type: ignore[arg-type]

    def __call__(self, text: str) -> list[int]:
        """Ids of a text that is forced, or of its beginning: a long one would be tokenized again at every step."""
        return list(self._forced(text[:_MAX_FORCED_CHARS], len(text) > _MAX_FORCED_CHARS))

    def _tokenize(self, text: str, is_cut: bool) -> tuple[int, ...]:
        ids = self._encode(text) if self._encode is not None else []
        if is_cut:
            ids = ids[:-_NUM_UNSURE]  # the cut may have changed them
        return tuple(ids or self._longest(text.encode()))

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        special = frozenset(self.special_token_ids)
        return {token: i for i, token in reversed(list(enumerate(self.tokens))) if token and i not in special}

    @cached_property
    def _max_token_bytes(self) -> int:
        return max(map(len, self._ids), default=0)

    def _longest(self, text: bytes) -> list[int]:
        """Ids of the longest tokens one behind the other, as far as there are any."""
        ids: list[int] = []
        at = 0
        while at < len(text):
            ends = range(min(len(text), at + self._max_token_bytes), at, -1)
            end = next((end for end in ends if text[at:end] in self._ids), None)
            if end is None:
                break
            ids.append(self._ids[text[at:end]])
            at = end
        return ids


def build_vocabulary(
    tokenizer: Tokenizer, eos_token_ids: Sequence[int], vocab_size: int | None = None
) -> "LLTokenizer":
    """The vocabulary for matchers of a model. Takes a moment: build it once, when the first grammar comes."""
    return Vocabulary.of(tokenizer, eos_token_ids, vocab_size).build()


def _continuation(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text in the middle of another, with exactly its bytes; none where the tokenizer has no such ids."""
    whole = text.encode()
    for before in ("", _BEFORE):
        num_before = len(tokenizer.encode(before, add_special_tokens=False)) if before else 0
        ids = tokenizer.encode(before + text, add_special_tokens=False)[num_before:]
        is_text = tokenizer.special_token_ids.isdisjoint(ids)
        if is_text and b"".join([tokenizer.token_bytes(token) for token in ids]) == whole:
            return ids
    return []
