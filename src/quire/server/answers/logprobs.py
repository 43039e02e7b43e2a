"""Log probabilities in the two shapes that OpenAI's API knows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quire.core.outputs import Logprob, Logprobs
from quire.server.schema.chat import ChatLogprobs, ChosenLogprob, TokenLogprob
from quire.server.schema.completion import CompletionLogprobs

LOWEST = -9999.0
"""Stands for minus infinity, which JSON cannot say."""

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer


class LogprobShaper:
    """Names tokens for one answer. ``as_ids``: as ``token_id:123`` instead of by their text."""

    def __init__(self, tokenizer: "Tokenizer", as_ids: bool) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids

    def chat(
        self, token_ids: Sequence[int], entries: Sequence[Logprobs] | None, num_top: int | None
    ) -> ChatLogprobs | None:
        """For a chat answer: each token and the ``num_top`` likeliest in its place, or all that the engine told."""
        if entries is None:
            return None
        return ChatLogprobs([self._chosen(t, found, num_top) for t, found in zip(token_ids, entries, strict=True)])

    def completion(
        self, token_ids: Sequence[int], entries: Sequence[Logprobs | None], text_offset: int
    ) -> tuple[CompletionLogprobs, int]:
        """For a completion: parallel lists, and where the next token's text begins.

        The first token of a prompt has no probability.
        """
        shaped = CompletionLogprobs([], [], [], [])
        for token_id, found in zip(token_ids, entries, strict=True):
            text = self._text(token_id, found.get(token_id) if found else None)
            name = self._name(token_id, text)
            shaped.tokens.append(name)
            shaped.text_offset.append(text_offset)
            text_offset += len(text)
            if found is None:
                shaped.token_logprobs.append(None)
                shaped.top_logprobs.append(None)
                continue
            shaped.token_logprobs.append(finite_value(found[token_id]))
            top: dict[str, float] = {name: finite_value(found[token_id])}
            for other, entry in found.items():
                top.setdefault(self._name(other, self._text(other, entry)), finite_value(entry))
            shaped.top_logprobs.append(top)
        return shaped, text_offset

    def _chosen(self, token_id: int, found: Logprobs, num_top: int | None) -> ChosenLogprob:
        token = self._token(token_id, found[token_id])
        shown = found.items() if num_top is None else likeliest(found, num_top)
        top = [self._token(other, entry) for other, entry in shown]
        return ChosenLogprob(token.token, token.logprob, token.bytes, top)

    def _token(self, token_id: int, entry: Logprob) -> TokenLogprob:
        name = self._name(token_id, self._text(token_id, entry))
        return TokenLogprob(name, finite_value(entry), list(self._tokenizer.token_bytes(token_id)))

    def _name(self, token_id: int, text: str) -> str:
        return f"token_id:{token_id}" if self._as_ids else text

    def _text(self, token_id: int, entry: Logprob | None) -> str:
        if entry is not None and entry.decoded_token is not None:
            return entry.decoded_token
        return self._tokenizer.token_text(token_id)


def likeliest(found: Logprobs, num_top: int) -> list[tuple[int, Logprob]]:
    """The ``num_top`` likeliest tokens in one place, best first."""
    ranked = [(token, entry) for token, entry in found.items() if (entry.rank or 0) <= num_top] if num_top else []
    # No more than these: a token that was chosen or named may share its rank with one of them.
    return sorted(ranked, key=lambda pair: (pair[1].rank or 0, pair[0]))[:num_top]


def finite(entries: list[Logprobs | None]) -> list[Logprobs | None]:
    """The same with minus infinity as LOWEST, for ``prompt_logprobs``."""
    return [
        None
        if found is None
        else {t: Logprob(finite_value(entry), entry.rank, entry.decoded_token) for t, entry in found.items()}
        for found in entries
    ]


def finite_value(entry: Logprob) -> float:
    """The log probability, with LOWEST in the place of minus infinity."""
    return max(entry.logprob, LOWEST)
