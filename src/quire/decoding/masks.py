"""Rules that single tokens out: allowed_token_ids, bad_words, min_tokens, logit_bias, applied in this order.

Rare, so an object for each sequence that has any, and a loop over those. Law: a rule names tokens by id; an id beyond
the vocabulary can never be chosen, so a rule about it holds already and nothing is left to do.

As in vLLM, bad words are matched against the generated tokens only: a word begun by the prompt may be ended.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from quire.core.step import Admission


class Constraints:
    """The rules of all slots. One for each sampler, in the worker's process."""

    def __init__(self, max_num_seqs: int, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._rules: dict[int, TokenRules] = {}
        self._always = np.zeros(max_num_seqs, bool)
        """By slot: has rules that hold at every position."""
        self._free_from = np.zeros(max_num_seqs, np.int64)
        """By slot: the first position at which the sequence may stop (min_tokens)."""
        self._is_followed = np.zeros(max_num_seqs, bool)
        """By slot: has rules that depend on the tokens generated."""

    def admit(self, admission: Admission) -> bool:
        """Take in a sequence's rules; False if it has none. The slot holds none yet."""
        slot, params = admission.slot, admission.params
        always = params.allowed_token_ids is not None or bool(admission.bad_word_ids) or bool(params.logit_bias)
        if not always and not (params.min_tokens and admission.stop_token_ids):
            return False
        rules = TokenRules(admission, self._vocab_size, self._device)
        self._rules[slot] = rules
        self._always[slot] = always
        self._free_from[slot] = admission.prompt_len + params.min_tokens
        self._is_followed[slot] = rules.is_followed
        return True

    def release(self, slots: np.ndarray) -> None:
        """Drop the rules of these slots; slots without any are passed over."""
        for slot in slots.tolist():
            self._rules.pop(slot, None)
        self._always[slots] = False
        self._free_from[slots] = 0
        self._is_followed[slots] = False

    def ruled(self, slots: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The rows [n] that have rules at these positions."""
        if not self._rules:
            return np.empty(0, np.int64)
        rows: np.ndarray = np.flatnonzero(self._always[slots] | (positions < self._free_from[slots]))
        return rows

    def apply(self, logits: Tensor, slots: np.ndarray, positions: np.ndarray, rows: np.ndarray) -> None:
        """Apply the rules of ``rows`` [n], which have some, to ``logits`` [R, V] in place."""
        for row in rows.tolist():
            slot = int(slots[row])
            self._rules[slot].apply(logits[row], may_stop=bool(positions[row] >= self._free_from[slot]))

    def record(self, slots: np.ndarray, token_ids: np.ndarray) -> None:
        """Note the tokens just chosen: ``token_ids`` [R], one for each of ``slots`` [R]."""
        if not self._rules:
            return
        for row in np.flatnonzero(self._is_followed[slots]).tolist():
            self._rules[int(slots[row])].follow(int(token_ids[row]))


class TokenRules:
    """The rules of one sequence, as tensors ready to be applied to its row."""

    def __init__(self, admission: Admission, vocab_size: int, device: torch.device) -> None:
        params = admission.params

        def ids(tokens: Sequence[int]) -> Tensor:
            return torch.tensor([token for token in tokens if token < vocab_size], dtype=torch.int64, device=device)

        self._forbidden: Tensor | None = None
        """[V] bool: all but allowed_token_ids."""
        if params.allowed_token_ids is not None:
            self._forbidden = torch.ones(vocab_size, dtype=torch.bool, device=device)
            self._forbidden[ids(params.allowed_token_ids)] = False
        self._bad_words = BadWords(admission, vocab_size) if admission.bad_word_ids else None
        self._stop_ids = ids(admission.stop_token_ids)
        bias = {token: amount for token, amount in (params.logit_bias or {}).items() if token < vocab_size}
        self._bias_ids = ids(list(bias))
        self._bias = torch.tensor(list(bias.values()), dtype=torch.float32, device=device)

    @property
    def is_followed(self) -> bool:
        return self._bad_words is not None

    def follow(self, token_id: int) -> None:
        assert self._bad_words is not None
        self._bad_words.follow(token_id)

    def apply(self, logits: Tensor, *, may_stop: bool) -> None:
        """Change one row, ``logits`` [V], in place."""
        if self._forbidden is not None:
            logits.masked_fill_(self._forbidden, -torch.inf)
        if self._bad_words is not None:
            banned = self._bad_words.banned()
            if banned:
                logits[torch.tensor(banned, device=logits.device)] = -torch.inf
        if not may_stop:
            logits[self._stop_ids] = -torch.inf
        if len(self._bias_ids):
            logits[self._bias_ids] += self._bias


class BadWords:
    """The bad words of one sequence, and as many of its last generated tokens as can begin one."""

    def __init__(self, admission: Admission, vocab_size: int) -> None:
        words = [word for word in admission.bad_word_ids if word and max(word) < vocab_size]
        self._always = [word[-1] for word in words if len(word) == 1]
        self._endings = [(word[:-1], word[-1]) for word in words if len(word) > 1]
        longest = max((len(beginning) for beginning, _ in self._endings), default=0)
        output = admission.tokens[admission.prompt_len :].tolist()
        self._tail: deque[int] = deque(output, maxlen=longest)

    def follow(self, token_id: int) -> None:
        self._tail.append(token_id)

    def banned(self) -> list[int]:
        """Ids that would end a bad word now."""
        tail = tuple(self._tail)
        return self._always + [last for beginning, last in self._endings if tail[-len(beginning) :] == beginning]
