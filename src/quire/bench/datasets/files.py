"""Prompts that come from files: conversations (ShareGPT), lines of verse, JSON lines of one's own."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec

from quire.bench.datasets.sample import Sample
from quire.bench.datasets.sonnets import SONNETS
from quire.bench.datasets.writer import TextWriter
from quire.core.errors import ConfigError

_MIN_TOKENS = 4
_MAX_PROMPT_TOKENS = 1024
_MAX_TOTAL_TOKENS = 2048
"""Conversations outside of these bounds are left out, as in every benchmark with this dataset."""

_INSTRUCTION = "Continue these lines of verse, choosing from what is written here.\n"


class _Turn(msgspec.Struct):
    value: str


class _Conversation(msgspec.Struct):
    conversations: list[_Turn] = []


class ShareGPT(msgspec.Struct, frozen=True, kw_only=True):
    """First questions of recorded conversations; answers are as long as the recorded ones, or ``output_len``."""

    path: str | None
    output_len: int | None = None
    is_shuffled: bool = True
    may_repeat: bool = True

    needs_tokenizer = True
    ignores_eos = False

    def samples(self, num: int, writer: TextWriter) -> list[Sample]:
        data = _read(self.path, "sharegpt")
        try:
            found = msgspec.json.decode(data, type=list[_Conversation])
        except msgspec.DecodeError as error:
            raise ConfigError(f"--dataset-path {self.path}: is not a list of conversations in JSON: {error}.") from None
        pairs = [(c.conversations[0].value, c.conversations[1].value) for c in found if len(c.conversations) >= 2]
        if self.is_shuffled:
            writer.random.shuffle(pairs)
        usable = (sample for question, answer in pairs if (sample := self._sample(question, answer, writer)))
        return _exactly(num, list(itertools.islice(usable, num)), self.path, self.may_repeat)

    def _sample(self, question: str, answer: str, writer: TextWriter) -> Sample | None:
        num_prompt_tokens = writer.count(question)
        num_output_tokens = self.output_len or writer.count_inside(answer)
        fits = (
            _MIN_TOKENS <= num_prompt_tokens <= _MAX_PROMPT_TOKENS
            and (self.output_len is not None or num_output_tokens >= _MIN_TOKENS)
            and num_prompt_tokens + num_output_tokens <= _MAX_TOTAL_TOKENS
        )
        return Sample(question, num_prompt_tokens, num_output_tokens) if fits else None


class Sonnet(msgspec.Struct, frozen=True, kw_only=True):
    """Lines of verse in random order, behind a beginning of about ``prefix_len`` tokens that all prompts share."""

    path: str | None = None
    """A text file; None: sonnets that are built in."""
    input_len: int = 550
    output_len: int = 150
    prefix_len: int = 200

    needs_tokenizer = True
    ignores_eos = False

    def samples(self, num: int, writer: TextWriter) -> list[Sample]:
        if self.prefix_len > self.input_len:
            raise ConfigError(
                f"--sonnet-prefix-len {self.prefix_len}: is a part of --sonnet-input-len {self.input_len}."
            )
        text = SONNETS if self.path is None else _decoded(_read(self.path, "sonnet"), self.path)
        lines = [line for line in text.splitlines() if line.strip()]
        if not lines:
            raise ConfigError(f"--dataset-path {self.path}: holds no lines.")
        prefix = _verses(itertools.cycle(lines), self.prefix_len, _INSTRUCTION if self.prefix_len else "", writer)
        samples = []
        for _ in range(num):
            chosen = (writer.random.choice(lines) for _ in itertools.count())
            prompt = writer.write(self.input_len, _verses(chosen, self.input_len, prefix, writer))
            samples.append(Sample(prompt, self.input_len, self.output_len))
        return samples


class _Line(msgspec.Struct):
    prompt: str
    output_tokens: int | None = None


class Custom(msgspec.Struct, frozen=True, kw_only=True):
    """A file of JSON lines, ``{"prompt": TEXT}``, with ``"output_tokens"`` where answers differ in length.

    Prompts are sent as they stand, with no chat template around them but the server's.
    """

    path: str | None
    output_len: int = 256
    """-1: as each line says."""
    is_shuffled: bool = True
    may_repeat: bool = True

    needs_tokenizer = False
    ignores_eos = False

    def samples(self, num: int, writer: TextWriter) -> list[Sample]:
        data = _read(self.path, "custom")
        samples = []
        for number, text in enumerate(data.splitlines(), start=1):
            if text.strip():
                try:
                    line = msgspec.json.decode(text, type=_Line)
                except msgspec.DecodeError as error:
                    raise ConfigError(f"--dataset-path {self.path}: line {number}: {error}.") from None
                samples.append(self._sample(line, number, writer))
        if self.is_shuffled:
            writer.random.shuffle(samples)
        return _exactly(num, samples[:num], self.path, self.may_repeat)

    def _sample(self, line: _Line, number: int, writer: TextWriter) -> Sample:
        output_len = line.output_tokens if self.output_len == -1 else self.output_len
        if output_len is None or output_len < 1:
            raise ConfigError(
                f"--dataset-path {self.path}: line {number} has no output_tokens of at least 1, which "
                "--custom-output-len -1 asks for."
            )
        return Sample(line.prompt, writer.count(line.prompt), output_len)


def _verses(lines: Iterator[str], limit: int, start: str, writer: TextWriter) -> str:
    """``start`` and whole lines behind it, up to ``limit`` tokens or a little less."""
    chosen: list[str] = []
    have = writer.count(start)
    for line in lines:
        have += writer.count_inside(f"{line}\n")
        if have > limit:
            break
        chosen.append(f"{line}\n")
    while chosen and writer.count(start + "".join(chosen)) > limit:  # parts may have fewer tokens than the whole
        chosen.pop()
    return start + "".join(chosen)


def _exactly(num: int, samples: list[Sample], path: str | None, may_repeat: bool) -> list[Sample]:
    """``num`` samples: the first ones again if there are too few."""
    if not samples:
        raise ConfigError(f"--dataset-path {path}: holds no prompts that can be used.")
    if len(samples) < num and not may_repeat:
        raise ConfigError(
            f"--dataset-path {path}: holds {len(samples)} prompts that can be used, but {num} are asked for, and "
            "--no-oversample forbids to repeat them."
        )
    return list(itertools.islice(itertools.cycle(samples), num))


def _read(path: str | None, name: str) -> bytes:
    if path is None:
        raise ConfigError(f"--dataset-name {name}: needs --dataset-path FILE.")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"--dataset-path {path}: {error.strerror}.") from None


def _decoded(data: bytes, path: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"--dataset-path {path}: is not UTF-8 text: {error}.") from None
