"""The door: a prompt and its settings become a Request that this engine can run, or a typed error.

Everything that depends on the model is checked here, in the client's process, so that nothing malformed ever reaches
the engine.
"""

import hashlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from quire.core.errors import InvalidRequest, PromptTooLong
from quire.core.messages import EngineInfo
from quire.core.request import ReasoningMarks, Request
from quire.core.sampling_params import SamplingParams
from quire.text.bad_words import bad_word_ids
from quire.text.dialects.dialect import ReasoningDialect

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer


class Intake:
    """Makes Requests for one engine. Owned by a client; holds its counter of handles.

    ``seed``: with a number, the nth unseeded request always draws the same seed; with None, seeds are fresh.
    ``reasoning``: how the model marks what it thinks.
    """

    def __init__(
        self,
        info: EngineInfo,
        tokenizer: "Tokenizer",
        eos_token_ids: Sequence[int],
        *,
        max_logprobs: int,
        seed: int | None,
        reasoning: ReasoningDialect | None = None,
    ) -> None:
        self.info = info
        self.tokenizer = tokenizer
        self.eos_token_ids = tuple(eos_token_ids)
        self._vocab_size = min(
            info.vocab_size, tokenizer.vocab_size
        )  # embeddings are often padded with ids of no token
        self.max_logprobs = max_logprobs
        self._reasoning = reasoning
        entropy = None if seed is None else seed % 2**64
        self._seed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0].item()
        self._next_handle = 1

    def request(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        request_id: str,
        priority: int = 0,
        cache_salt: str = "",
        grammar: str | None = None,
    ) -> Request:
        """Check token ids and settings against the model; raises InvalidRequest or PromptTooLong.

        ``grammar``: what the answer must match, checked already.
        """
        tokens = self._prompt(prompt, params)
        if type(priority) is not int or not -(2**31) <= priority < 2**31:
            raise InvalidRequest(
                f"priority is {priority!r:.100}: it must be an integer of 32 bits, 0 where none is asked for.",
                param="$.priority",
            )
        self._check_ids(params)
        self._check_logprobs(params)
        room = self.info.max_model_len - len(tokens)
        if params.max_tokens is not None and params.max_tokens > self.info.max_model_len:
            raise PromptTooLong(
                f"max_tokens is {params.max_tokens}. Requested token count exceeds the model's maximum context length "
                f"of {self.info.max_model_len} tokens: ask for at most {room} after this prompt.",
                param="$.max_tokens",
            )
        if params.min_tokens > room:
            raise PromptTooLong(
                f"min_tokens is {params.min_tokens}, but the prompt of {len(tokens)} tokens leaves room for {room} "
                f"in the model's context of {self.info.max_model_len} tokens.",
                param="$.min_tokens",
            )
        if params.structured_outputs is not None:
            assert grammar is not None, "a shape is made a grammar before a request is"
            params = params.replace(structured_outputs=None)  # the engine reads the grammar
        handle = self._next_handle
        self._next_handle += params.n
        # Where a grammar is complete nothing can follow but the end, so that is not ignored there.
        eos = () if params.ignore_eos and grammar is None else self.eos_token_ids
        stop_token_ids = tuple(dict.fromkeys(eos + params.stop_token_ids))
        banned = bad_word_ids(self.tokenizer, params.bad_words) if params.bad_words else ()
        _check_choice(params, stop_token_ids, banned)
        return Request(
            handle=handle,
            request_id=request_id,
            prompt=tokens,
            params=params,
            max_total_tokens=len(tokens) + min(room, params.max_tokens if params.max_tokens is not None else room),
            stop_token_ids=stop_token_ids,
            bad_word_ids=banned,
            seed=params.seed % 2**64 if params.seed is not None else self._fresh_seed(handle),
            grammar=grammar,
            reasoning=self._reasoning_marks(tokens, params.thinking_token_budget),
            priority=priority,
            cache_salt=cache_salt,
            arrival_s=time.monotonic(),
        )

    def room(self, prompt: Sequence[int]) -> int:
        """How many tokens may follow a prompt; raises InvalidRequest or PromptTooLong for one that cannot be used."""
        return self.info.max_model_len - len(self._prompt(prompt, SamplingParams()))

    def _prompt(self, prompt: Sequence[int], params: SamplingParams) -> np.ndarray:
        try:
            tokens = np.asarray(prompt)
        except (ValueError, TypeError):  # lists of several lengths, or what is no array at all
            tokens = np.array(None)
        if tokens.shape == (0,):
            raise InvalidRequest("The prompt is empty: it must hold at least one token.", param="$.prompt")
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise InvalidRequest(
                f"The prompt is {prompt!r:.100}: it must be text, or token ids, which are integers.", param="$.prompt"
            )
        outside = (tokens < 0) | (tokens >= self._vocab_size)
        if outside.any():
            at = int(outside.argmax())
            raise InvalidRequest(
                f"Token id {tokens[at]} at position {at} of the prompt is out of vocabulary: the {self._vocab_size} "
                f"ids go from 0 to {self._vocab_size - 1}.",
                param="$.prompt",
            )
        keep = params.truncate_prompt_tokens
        if keep == -1:
            keep = max(1, self.info.max_model_len - (params.max_tokens or 1))
        if keep is not None:
            tokens = tokens[-keep:] if params.truncation_side == "left" else tokens[:keep]
        if len(tokens) >= self.info.max_model_len:
            raise PromptTooLong(
                # Clients look for these words, of several servers, and shorten their conversation.
                f"The prompt is too long: with {len(tokens)} tokens it is longer than the model's context length. "
                f"This model's maximum context length is {self.info.max_model_len} tokens, of which at least one is "
                f"for the answer: shorten the prompt to {self.info.max_model_len - 1} tokens.",
                param="$.prompt",
                num_prompt_tokens=len(tokens),
                max_model_len=self.info.max_model_len,
            )
        return tokens.astype(np.int32)

    def _check_ids(self, params: SamplingParams) -> None:
        named = {
            "stop_token_ids": params.stop_token_ids,
            "allowed_token_ids": params.allowed_token_ids or (),
            "logprob_token_ids": params.logprob_token_ids,
            "logit_bias": params.logit_bias or (),
        }
        for name, ids in named.items():
            for token in ids:
                if token >= self._vocab_size:
                    raise InvalidRequest(
                        f"{name} holds token id {token}, which is out of vocabulary: the {self._vocab_size} ids go "
                        f"from 0 to {self._vocab_size - 1}.",
                        param=f"$.{name}",
                    )

    def _check_logprobs(self, params: SamplingParams) -> None:
        for name in ("logprobs", "prompt_logprobs"):
            asked: int | None = getattr(params, name)
            if asked is None:
                continue
            count = self._vocab_size if asked == -1 else asked
            if count > self.max_logprobs:
                raise InvalidRequest(
                    f"{name} is {asked}: this server returns at most {self.max_logprobs} log probabilities a token "
                    "(--max-logprobs).",
                    param=f"$.{name}",
                )

    def _reasoning_marks(self, tokens: np.ndarray, budget: int | None) -> ReasoningMarks | None:
        """Where reasoning begins and ends, for a request that bounds it."""
        if budget is None or self._reasoning is None:  # what marks no reasoning keeps any budget
            return None
        prompt = self.tokenizer.decode(tokens.tolist(), False)
        return ReasoningMarks(
            begin_ids=tuple(self.tokenizer.encode(self._reasoning.begin, False)),
            end_ids=tuple(self.tokenizer.encode(self._reasoning.end, False)),
            is_open=self._reasoning.is_open(prompt),
            budget=budget,
        )

    def _fresh_seed(self, handle: int) -> int:
        digest = hashlib.blake2b(handle.to_bytes(8, "little"), key=self._seed.to_bytes(8, "little"), digest_size=8)
        return int.from_bytes(digest.digest(), "little")


def _check_choice(params: SamplingParams, stop_token_ids: Sequence[int], bad_word_ids: Sequence[Sequence[int]]) -> None:
    """Raise InvalidRequest where rules that hold from the start leave no token to choose."""
    if params.allowed_token_ids is None:
        return
    left = set(params.allowed_token_ids) - {word[0] for word in bad_word_ids if len(word) == 1}
    if params.min_tokens:
        left.difference_update(stop_token_ids)
    if not left:
        raise InvalidRequest(
            "allowed_token_ids holds no token that may be chosen: bad_words or, before min_tokens, stop_token_ids and "
            "the model's own ends forbid all of them.",
            param="$.allowed_token_ids",
        )
