"""Writes texts that have exactly as many tokens as asked for.

Prompts go out as text, since not every server takes token ids (OpenVINO's model server takes one string). The text is
words in random order with spaces between them: a tokenizer cuts it at the spaces, so it reads the same tokens back.
Law: ``len(encode(write(n))) == n``, special tokens included, whatever the tokenizer. Equal seeds write equal texts; of
texts with different seeds hardly the first words are the same, so no prefix cache knows them.
"""

import random
import re
from typing import Protocol

from quire.bench.datasets.sonnets import SONNETS
from quire.core.errors import ConfigError

_MAX_TRIES = 200
_FEW = 4
"""So few missing tokens are filled in one try each, with what is known to fit."""
_SHORT_PIECES = (" a", " I", ",", ".", "!", "?", "1", "-", "x")


class Tokens(Protocol):
    """The part of a tokenizer that is needed here."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Ids of a text, framed with special tokens where the model wants them."""


class TextWriter:
    """Owns the random numbers of a benchmark's prompts; ``tokenizer`` None can count nothing and write nothing."""

    def __init__(self, tokenizer: Tokens | None, seed: int) -> None:
        self.random = random.Random(seed)
        self._tokenizer = tokenizer
        self._words: list[str] = sorted(set(re.findall(r"[a-z]{2,}", SONNETS.lower())))
        self._costs: dict[str, int] = {}

    @property
    def can_count(self) -> bool:
        """Whether there is a tokenizer."""
        return self._tokenizer is not None

    def count(self, text: str) -> int:
        """Tokens of a prompt, special ones included; 0 without a tokenizer."""
        return len(self._tokenizer.encode(text)) if self._tokenizer is not None else 0

    def count_inside(self, text: str) -> int:
        """Tokens of a text as a part of another; 0 without a tokenizer."""
        return len(self._tokenizer.encode(text, False)) if self._tokenizer is not None else 0

    def write(self, num_tokens: int, start: str = "") -> str:
        """A text of exactly ``num_tokens`` tokens that begins with ``start``.

        Raises ConfigError if the start is longer, or if the tokenizer has no text of that length.
        """
        assert self._tokenizer is not None
        text, have = start, self.count(start)
        if have > num_tokens:
            raise ConfigError(
                f"a prompt cannot have {num_tokens} tokens: its beginning, or what the tokenizer adds, has {have}."
            )
        for _ in range(_MAX_TRIES):
            missing = num_tokens - have
            if missing == 0:
                return text
            if missing > _FEW:
                text = self._grown(text, missing)
            elif missing > 0:
                text = self._filled(text, have, num_tokens)
            else:
                text = _shortened(text, start, -missing)
            have = self.count(text)
        raise ConfigError(f"this tokenizer finds no text of exactly {num_tokens} tokens: try another length.")

    def _grown(self, text: str, missing: int) -> str:
        """With as many words more as seem to be missing."""
        words = [text] if text else []
        while missing > 0:
            word = self.random.choice(self._words)
            words.append(word)
            missing -= self._cost(word)
        return " ".join(words)

    def _filled(self, text: str, have: int, limit: int) -> str:
        """With one piece more that does not go over the limit."""
        space = " " if text else ""
        words = [space + self.random.choice(self._words) for _ in range(8)]
        for piece in (*words, *_SHORT_PIECES):
            longer = text + piece
            if have < self.count(longer) <= limit:
                return longer
        raise ConfigError(f"this tokenizer finds no text of exactly {limit} tokens: try another length.")

    def _cost(self, word: str) -> int:
        if word not in self._costs:
            self._costs[word] = max(1, self.count_inside(f" {word}"))
        return self._costs[word]


def _shortened(text: str, start: str, excess: int) -> str:
    """With fewer words behind the start."""
    words = text[len(start) :].split(" ")
    return start + " ".join(words[: -max(1, excess // 2)])
