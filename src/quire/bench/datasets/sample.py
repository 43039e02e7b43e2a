"""What a benchmark asks: one prompt and how long its answer should be; and what every source of them can do."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from quire.bench.datasets.writer import TextWriter


class Sample(msgspec.Struct, frozen=True):
    """One request to be sent."""

    prompt: str
    num_prompt_tokens: int
    """As a completions endpoint counts them, beginning-of-sequence token included; 0 where nobody can tell."""
    num_output_tokens: int
    """The most tokens the answer may have."""


class Dataset(Protocol):
    """A source of samples."""

    needs_tokenizer: bool
    """Whether ``samples`` must be able to count tokens."""
    ignores_eos: bool
    """Whether answers are to have their full length."""

    def samples(self, num: int, writer: TextWriter) -> Sequence[Sample]:
        """Exactly ``num`` samples, chosen by the writer's random numbers. Raises ConfigError."""
