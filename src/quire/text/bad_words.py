"""Words that must not be generated, as the token sequences that would write them.

A word is written in one way at the beginning of a text or inside a word and in another after a space, so it gives two
sequences. The same word split differently into tokens is not caught; models hardly ever write it so.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from quire.core.errors import InvalidRequest

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer

MAX_BAD_WORD_TOKENS = 64


def bad_word_ids(tokenizer: "Tokenizer", words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Different token sequences, two for each word at most, each of 1 to MAX_BAD_WORD_TOKENS ids.

    The last id of a sequence is forbidden wherever the ones before it were just generated. Raises InvalidRequest for
    words that are too long.
    """
    return tuple(dict.fromkeys(_sequences(tokenizer, words)))


def _sequences(tokenizer: "Tokenizer", words: Sequence[str]) -> Iterator[tuple[int, ...]]:
    for index, word in enumerate(words):
        bare = word.lstrip(" ") or word
        for text in (bare, " " + bare):
            ids = tuple(tokenizer.encode(text, add_special_tokens=False))
            if len(ids) > MAX_BAD_WORD_TOKENS:
                raise InvalidRequest(
                    f"bad_words[{index}] has {len(ids)} tokens; at most {MAX_BAD_WORD_TOKENS} are allowed.",
                    param=f"$.bad_words[{index}]",
                )
            if ids:
                yield ids
