"""Fill in the middle: what comes before and after a gap becomes a prompt that the model ends by filling it.

Models that were trained for it have tokens that mark the three parts; which ones a tokenizer has tells the family, and
with it the order. Law: the prompt is the marks and the two texts, each tokenized by itself as if the file went on.
Source: Bavarian et al., "Efficient Training of Language Models to Fill in the Middle", 2022; each family's model card.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from quire.core.errors import Unsupported

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer


class OtherFile(msgspec.Struct, frozen=True):
    """A file beside the one with the gap."""

    name: str
    text: str


class _Family(NamedTuple):
    prefix: str
    suffix: str
    middle: str | None
    """None where the text before the gap comes last, and the model goes on from it."""
    repository: str | None = None
    file: str | None = None
    ends: tuple[str, ...] = ()
    """Further tokens after which nothing of the middle comes."""


_FAMILIES = (
    _Family(
        "<|fim_prefix|>",  # Qwen2.5-Coder, Qwen3-Coder, Granite 4, CodeGemma
        "<|fim_suffix|>",
        "<|fim_middle|>",
        "<|repo_name|>",
        "<|file_sep|>",
        ("<|fim_pad|>", "<|endoftext|>", "<|file_separator|>"),
    ),
    _Family(
        "<fim_prefix>",  # StarCoder, StarCoder2, Granite Code, Refact
        "<fim_suffix>",
        "<fim_middle>",
        "<repo_name>",
        "<file_sep>",
        ("<fim_pad>", "<|endoftext|>"),
    ),
    _Family("<fim-prefix>", "<fim-suffix>", "<fim-middle>", ends=("<fim-pad>", "<|endoftext|>")),  # SantaCoder
    _Family("▁<PRE>", "▁<SUF>", "▁<MID>", ends=("▁<EOT>",)),  # CodeLlama
    _Family("<PRE>", "<SUF>", "<MID>", ends=("<EOT>",)),  # CodeLlama, as converted by some
    _Family("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder, DeepSeek-V2 and V3
    _Family("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM-4
    _Family("[PREFIX]", "[SUFFIX]", None, ends=("[MIDDLE]",)),  # Codestral
)

_LEAD = "☺"
"""Encoded before a text and cut off again: a word at a text's beginning is not written as one that goes on."""


class FillInMiddle:
    """One tokenizer's marks. ``end_ids``: tokens after which nothing of the middle comes."""

    def __init__(self, tokenizer: "Tokenizer", family: _Family) -> None:
        def find(token: str | None) -> int | None:
            return None if token is None else tokenizer.token_to_id(token)

        def found(tokens: Iterable[str | None]) -> list[int]:
            return [token_id for token in tokens if (token_id := find(token)) is not None]

        self._tokenizer = tokenizer
        self._marks = found((family.prefix, family.suffix, family.middle))
        self._is_suffix_first = family.middle is None
        self._repository, self._file = find(family.repository), find(family.file)
        others = (family.repository, family.file, *family.ends)
        self.end_ids = tuple(dict.fromkeys([*self._marks, *found(others)]))

    @classmethod
    def of(cls, tokenizer: "Tokenizer") -> "FillInMiddle":
        """Raises Unsupported for a tokenizer that has no such tokens."""
        for family in _FAMILIES:
            needed = [token for token in (family.prefix, family.suffix, family.middle) if token is not None]
            if all(tokenizer.token_to_id(token) is not None for token in needed):
                return cls(tokenizer, family)
        raise Unsupported(
            "The model's tokenizer has no tokens to fill in the middle (such as <|fim_prefix|>, <|fim_suffix|> and "
            "<|fim_middle|>): serve a model that was trained for it, or send only what comes before."
        )

    def prompt(
        self,
        before: str | Sequence[int],
        after: str,
        *,
        begun: str = "",
        others: Sequence[OtherFile] = (),
        add_special_tokens: bool = True,
    ) -> list[int]:
        """Token ids that ask for what stands between ``before`` and ``after`` and begins with ``begun``.

        ``others`` come first: marked as files where the family has marks for it, as plain text where it has not.
        """
        prefix, suffix, *middle = self._marks
        first = self._encode(before) if isinstance(before, str) else list(before)
        second = self._continued(after)
        around = (
            [suffix, *second, prefix, *first] if self._is_suffix_first else [prefix, *first, suffix, *second, *middle]
        )
        start = self._start() if add_special_tokens else []
        return [*start, *self._context(others), *around, *self._continued(begun)]

    def _start(self) -> list[int]:
        """The token that begins every text, where there is one."""
        framed = self._tokenizer.encode("", True)
        return framed[:1] if framed and framed[0] == self._tokenizer.bos_token_id else []

    def _context(self, others: Sequence[OtherFile]) -> list[int]:
        if not others:
            return []
        if self._file is None:
            return self._encode("".join(f"{other.text}\n" for other in others))
        ids = [] if self._repository is None else [self._repository, *self._continued("repository\n")]
        for other in others:
            ids += [self._file, *self._continued(f"{other.name}\n{other.text}\n")]
        return [*ids, self._file, *self._continued("filename\n")]

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _continued(self, text: str) -> list[int]:
        """Ids of a text that follows another, without the space that some tokenizers put before every text."""
        if not text or not self._tokenizer.num_stripped_spaces:
            return self._encode(text)
        lead, ids = self._encode(_LEAD), self._encode(_LEAD + text)
        return ids[len(lead) :] if ids[: len(lead)] == lead else self._encode(text)
