"""Prompts made up on the spot: random words, and random words behind beginnings that several share."""

import msgspec

from quire.bench.datasets.sample import Sample
from quire.bench.datasets.writer import TextWriter
from quire.core.errors import ConfigError


class RandomText(msgspec.Struct, frozen=True, kw_only=True):
    """Words in random order. Lengths are spread evenly over ``length * (1 - range_ratio)`` to ``(1 + range_ratio)``."""

    input_len: int = 1024
    output_len: int = 128
    range_ratio: float = 0.0
    prefix_len: int = 0
    """Tokens at the beginning, besides ``input_len``, that all prompts share."""

    needs_tokenizer = True
    ignores_eos = True

    def samples(self, num: int, writer: TextWriter) -> list[Sample]:
        if not 0 <= self.range_ratio < 1:
            raise ConfigError(f"--random-range-ratio {self.range_ratio}: must be at least 0 and less than 1.")
        prefix = writer.write(self.prefix_len) if self.prefix_len else ""
        samples = []
        for _ in range(num):
            length = self.prefix_len + self._around(self.input_len, writer)
            output_len = self._around(self.output_len, writer)
            samples.append(Sample(writer.write(length, prefix), length, output_len))
        return samples

    def _around(self, length: int, writer: TextWriter) -> int:
        low, high = length * (1 - self.range_ratio), length * (1 + self.range_ratio)
        return max(1, writer.random.randint(round(low), round(high)))


class PrefixRepetition(msgspec.Struct, frozen=True, kw_only=True):
    """A few beginnings, each shared by as many prompts as the others, in random order; each prompt has its own end."""

    prefix_len: int = 256
    suffix_len: int = 256
    num_prefixes: int = 10
    output_len: int = 128

    needs_tokenizer = True
    ignores_eos = False

    def samples(self, num: int, writer: TextWriter) -> list[Sample]:
        length = self.prefix_len + self.suffix_len
        prefixes = [writer.write(self.prefix_len) for _ in range(self.num_prefixes)]
        samples = [
            Sample(writer.write(length, prefixes[i % self.num_prefixes]), length, self.output_len) for i in range(num)
        ]
        writer.random.shuffle(samples)
        return samples
