"""How large a worker's buffers are."""

from typing import NamedTuple

import torch

from quire.engine.resolve import Resolved


class Sizes(NamedTuple):
    """Of one model runner: the most there is of everything."""

    block_size: int
    max_num_seqs: int
    max_num_tokens: int
    """In a step."""
    max_model_len: int
    kv_dtype: torch.dtype

    @classmethod
    def of(cls, resolved: Resolved) -> "Sizes":
        config = resolved.config
        block_size, max_num_seqs = config.cache.block_size, config.scheduler.max_num_seqs
        max_num_tokens, context = config.scheduler.max_num_batched_tokens, config.model.max_model_len
        assert block_size and max_num_seqs and max_num_tokens and context
        return cls(block_size, max_num_seqs, max_num_tokens, context, getattr(torch, config.cache.kv_cache_dtype))

    @property
    def max_blocks(self) -> int:
        """Of one sequence."""
        return -(-self.max_model_len // self.block_size)
