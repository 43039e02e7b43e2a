"""Small steps shared by everyone who builds a ``tokenizers.Tokenizer``."""

from collections.abc import Iterable
from typing import NamedTuple

from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Backend


class Built(NamedTuple):
    """A tokenizer and the tokens that have a role in it."""

    backend: Backend
    roles: dict[str, str]
    """Role -> token, for instance "eos_token" -> "</s>"; roles nobody has are absent."""
    vocab_size: int | None = None
    """Highest id + 1, where the builder knows."""


def add_tokens(backend: Backend, tokens: Iterable[str], *, special: bool, normalized: bool = False) -> None:
    """Let these tokens be found whole in any text. Those of the vocabulary keep their ids.

    ``normalized`` ones are looked for after the backend's normalizer has run, the others in the text as it is.
    """
    added = [AddedToken(token, normalized=normalized, special=special) for token in tokens if token]
    if special:
        backend.add_special_tokens(added)
    else:
        backend.add_tokens(added)


def frame(backend: Backend, bos: str | None, eos: str | None) -> None:
    """Begin every text with ``bos`` and end it with ``eos``; None adds nothing. Replaces what was set before."""
    ends = [token for token in (bos, eos) if token is not None]
    backend.post_processor = processors.TemplateProcessing(
        single=[*([bos] if bos else []), "$A", *([eos] if eos else [])],
        pair=None,
        special_tokens=[(token, backend.token_to_id(token)) for token in dict.fromkeys(ends)],
    )
