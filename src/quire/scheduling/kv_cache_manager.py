"""Who has which KV blocks: the only one the scheduler talks to about them.

Joins the BlockPool (counts) and the PrefixCache (contents). A sequence's KV lies in a list of blocks, in the order of
its tokens; whole blocks at its beginning may be shared with others, the block it writes to never is.
Law: blocks that a sequence was given stay held, by it, until ``free``; the source of a copy, until ``end_copy``.
"""

from typing import NamedTuple

import numpy as np

from quire.scheduling.block_pool import BlockPool
from quire.scheduling.prefix_cache import Match, PrefixCache

_NO_MATCH = Match(np.empty(0, np.int32))


class Allocation(NamedTuple):
    """The blocks of a sequence that was let in."""

    blocks: np.ndarray
    """[ceil(num_tokens / block_size)] int32."""
    num_computed_tokens: int
    """KV that is there, or will be once the copy is done."""
    copy: tuple[int, int, int] | None
    """(from block, to block, tokens to copy), before anything is computed."""


class KVCacheManager:
    """KV accounting of one engine. Owned by the Scheduler; knows no tensors."""

    def __init__(self, num_blocks: int, block_size: int, enable_prefix_caching: bool) -> None:
        self.block_size = block_size
        self.has_prefix_cache = enable_prefix_caching
        self.pool = BlockPool(num_blocks)
        self.prefix_cache = PrefixCache(self.pool, block_size)
        self.generation = 0
        """Changes whenever more became available or findable: what failed to fit before may fit now."""

    @property
    def num_available(self) -> int:
        """Blocks that can be had, evicting what nobody holds."""
        return self.pool.num_blocks - self.pool.num_held

    def lookup(self, namespace: str, tokens: np.ndarray) -> Match:
        """What is cached of ``tokens`` [n] int32. Holds nothing: good until the next call that changes anything."""
        if not self.has_prefix_cache or not tokens.size:
            return _NO_MATCH
        return self.prefix_cache.match(namespace, tokens)

    def num_matching(self, match: Match) -> int:
        """Tokens of a match."""
        return match.blocks.size * self.block_size + match.num_partial

    def allocate(self, match: Match, num_tokens: int, num_spare: int) -> Allocation | None:
        """Blocks for a sequence of ``num_tokens`` that begins with ``match``.

        None, and nothing changed, unless ``num_spare`` more blocks would still be available. If only the copied block
        makes it one too many, the copy is done without.
        """
        partial = np.array([match.partial] if match.partial >= 0 else [], np.int32)
        num_new = -(-num_tokens // self.block_size) - match.blocks.size
        self.pool.hold(match.blocks)
        self.pool.hold(partial)
        if partial.size and num_new + num_spare > self.num_available:
            self.pool.release(partial)
            partial, match = partial[:0], Match(match.blocks)
        if num_new + num_spare > self.num_available:
            self.pool.release(match.blocks)
            return None
        new = self.take(num_new)
        copy = (match.partial, int(new[0]), match.num_partial) if partial.size else None
        return Allocation(np.concatenate([match.blocks, new]), self.num_matching(match), copy)

    def take(self, num_blocks: int) -> np.ndarray:
        """[num_blocks] int32 blocks for sequences that grow; that many must be available."""
        missing = num_blocks - self.pool.num_free
        if missing > 0:
            self.prefix_cache.evict(missing)
        return self.pool.allocate(num_blocks)

    def end_copy(self, source: int) -> None:
        """The copy from this block is done, or no longer wanted."""
        self._release(np.array([source], np.int32))

    def share(self, namespace: str, tokens: np.ndarray, blocks: np.ndarray) -> np.ndarray:
        """Let others find the KV of ``tokens`` [n] in ``blocks``, while its sequence goes on.

        Returns [n // block_size] int32: the blocks the sequence shall use for its full ones from now on. Where equal
        contents were there already those are taken, and its own given back.
        """
        own = blocks[: tokens.size // self.block_size]
        if not self.has_prefix_cache:
            return own
        kept = self.prefix_cache.insert(namespace, tokens, blocks)
        self.generation += 1
        differs = kept != own
        self.pool.hold(kept[differs])
        self._release(own[differs])
        return kept

    def free(self, namespace: str, tokens: np.ndarray, blocks: np.ndarray) -> None:
        """Take back a sequence's ``blocks``; the KV of ``tokens`` [n], which they begin with, can be found from now on.

        ``n`` may end anywhere in the blocks; 0 keeps nothing that was not kept before.
        """
        if self.has_prefix_cache and tokens.size:
            self.prefix_cache.insert(namespace, tokens, blocks[: -(-tokens.size // self.block_size)])
        self._release(blocks)

    def reset(self) -> None:
        """Forget all prefixes that no sequence holds."""
        self.prefix_cache.clear()
        self.generation += 1

    def check(self, counts: np.ndarray) -> None:
        """Verify all laws; ``counts`` [num_blocks] says how many sequences and copies hold each block."""
        self.pool.check(counts)
        self.prefix_cache.check()

    def _release(self, blocks: np.ndarray) -> None:
        self.pool.release(blocks)
        self.prefix_cache.touch(blocks)
        self.generation += 1
