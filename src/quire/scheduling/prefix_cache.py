"""Finds KV that is already there: a radix tree over blocks, one tree for each namespace.

A node is a run of blocks and the tokens whose KV they hold. All blocks are full, but for the last one of a leaf, which
may hold fewer tokens. Nodes branch where blocks end. Only whole full blocks are shared by reference; a match that ends
inside a block names that block as the source of a copy, so whoever found it never writes to it.

Laws. A block is in at most one node. What a node says of a block stays true: contents are only ever appended, by the
one sequence that holds the block, behind the tokens the node knows of. Whoever holds a block of the tree holds
every block above it; so all blocks with count 0 can be evicted, leaf by leaf, the least recently used first.

After the radix attention of SGLang (Zheng et al., 2024, arXiv:2312.07104), here over fixed-size blocks.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from quire.scheduling.block_pool import BlockPool

_NONE = np.empty(0, np.int32)
_NONE.setflags(write=False)


class Match(NamedTuple):
    """What the cache has of a sequence: its first ``len(blocks) * block_size + num_partial`` tokens."""

    blocks: np.ndarray
    """[n] int32, full blocks in order; to be held, not written."""
    partial: int = -1
    """The block whose first ``num_partial`` tokens come next; to be copied. -1 for none."""
    num_partial: int = 0


class _Node:
    """A run of blocks. ``key`` is the bytes of its first block's tokens, its name in the parent."""

    __slots__ = ("blocks", "children", "id", "keys", "last_used", "parent", "tokens")

    def __init__(self, node_id: int, tokens: np.ndarray, blocks: np.ndarray, parent: "_Node | None") -> None:
        self.id = node_id
        self.tokens = tokens
        self.blocks = blocks
        self.parent = parent
        self.children: dict[bytes, _Node] = {}
        self.keys: list[bytes] = []  # of children, sorted: whoever shares most with a key stands next to it
        self.last_used = 0

    def adopt(self, key: bytes, child: "_Node") -> None:
        insort(self.keys, key)
        self.children[key] = child
        child.parent = self

    def disown(self, key: bytes) -> None:
        del self.keys[bisect_left(self.keys, key)]
        del self.children[key]

    def closest(self, key: bytes) -> tuple["_Node | None", int]:
        """The child whose first block shares most leading tokens with ``key``, and how many."""
        at = bisect_left(self.keys, key)
        best, most = None, 0
        for neighbour in self.keys[max(at - 1, 0) : at + 1]:
            shared = common_prefix(np.frombuffer(neighbour, np.int32), np.frombuffer(key, np.int32))
            if shared > most:
                best, most = self.children[neighbour], shared
        return best, most


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """How many leading elements are equal."""
    n = min(a.size, b.size)
    differs = a[:n] != b[:n]
    first = int(differs.argmax()) if n else 0
    return first if n and differs[first] else n


class PrefixCache:
    """The tree and the order of eviction. Owned by KVCacheManager; lives in the engine process."""

    def __init__(self, pool: BlockPool, block_size: int) -> None:
        self._pool = pool
        self._block_size = block_size
        self._roots: dict[str, _Node] = {}
        self._namespaces: dict[int, str] = {}  # by id of the root
        self._nodes: dict[int, _Node] = {}  # by id, roots excepted
        self._node_of = np.full(pool.num_blocks, -1, np.int64)  # by block: id of its node
        self._next_id = 0
        self._clock = 0
        self._leaves: list[tuple[int, int]] = []  # heap of (last_used, id); stale entries are dropped when they surface

    def match(self, namespace: str, tokens: np.ndarray) -> Match:
        """Find the longest cached beginning of ``tokens`` ([n] int32). Changes nothing."""
        size = self._block_size
        node = self._roots.get(namespace)
        found: list[np.ndarray] = []
        while node is not None and tokens.size:
            key = tokens[:size].tobytes()
            child = node.children.get(key) if tokens.size >= size else None
            if child is None:
                child, shared = node.closest(key)
                partial = int(child.blocks[0]) if child is not None else -1
                return Match(np.concatenate([_NONE, *found]), partial, shared)
            shared = common_prefix(child.tokens, tokens)
            full = shared // size
            found.append(child.blocks[:full])
            if shared < child.tokens.size or shared % size:
                rest = shared % size
                return Match(np.concatenate([_NONE, *found]), int(child.blocks[full]) if rest else -1, rest)
            node, tokens = child, tokens[shared:]
        return Match(np.concatenate([_NONE, *found]))

    def insert(self, namespace: str, tokens: np.ndarray, blocks: np.ndarray) -> np.ndarray:
        """Make ``tokens`` [n] findable, whose KV lies in ``blocks`` [ceil(n / block_size)], all held by the caller.

        Returns [n // block_size] int32, the full blocks that the tree now has for these tokens: the caller's own or,
        where equal contents were there before, the earlier ones.
        """
        size = self._block_size
        node = self._root(namespace)
        kept: list[np.ndarray] = []
        while tokens.size:
            key = tokens[:size].tobytes()
            child = node.children.get(key) if tokens.size >= size else None
            if child is None:
                if tokens.size >= size or node.closest(key)[1] < tokens.size:
                    self._attach(node, key, tokens, blocks)
                    kept.append(blocks[: tokens.size // size])
                break
            self._touch(child)
            shared = common_prefix(child.tokens, tokens)
            full = shared // size
            kept.append(child.blocks[:full])
            if shared == tokens.size:
                break
            if shared == child.tokens.size and shared % size and child.blocks[full] == blocks[full]:
                kept.append(blocks[full : tokens.size // size])
                self._extend(child, tokens[shared:], blocks[full + 1 :])
                break
            node = child if shared == full * size == child.tokens.size else self._split(child, full)
            tokens, blocks = tokens[full * size :], blocks[full:]
        return np.concatenate([_NONE, *kept])

    def touch(self, blocks: np.ndarray) -> None:
        """Note that these blocks were used just now; to be called when they are released."""
        self._clock += 1
        for node_id in np.unique(self._node_of[blocks]).tolist():
            if node_id >= 0:
                self._touch(self._nodes[node_id])

    def evict(self, num_blocks: int) -> int:
        """Free up to this many blocks, from the least recently used leaves. Returns how many."""
        num_freed = 0
        while num_freed < num_blocks and self._leaves:
            last_used, node_id = heapq.heappop(self._leaves)
            node = self._nodes.get(node_id)
            if node is None or node.last_used != last_used or not self._is_evictable(node):
                continue
            held = int(np.count_nonzero(self._pool.is_held(node.blocks)))
            keep = max(held, node.blocks.size - (num_blocks - num_freed))
            num_freed += node.blocks.size - keep
            self._trim(node, keep)
        return num_freed

    def clear(self) -> None:
        """Forget all that nobody holds."""
        self.evict(self._pool.num_cached)

    def check(self) -> None:
        """Verify the laws from scratch."""
        pool, size = self._pool, self._block_size
        node_of = np.full_like(self._node_of, -1)
        num_nodes, enlisted = 0, set(self._leaves)
        for node in self._walk():
            num_nodes += 1
            assert node.parent is not None and self._nodes[node.id] is node, "a node is lost"
            assert node.parent.children[node.tokens[:size].tobytes()] is node, "a node has the wrong key"
            assert node.tokens.size > 0 and node.blocks.size == -(-node.tokens.size // size), "a node has a wrong size"
            assert node.tokens.size % size == 0 or not node.children, "a node has children after a part of a block"
            assert node.keys == sorted(node.children), "the keys of a node's children are wrong"
            assert (node_of[node.blocks] == -1).all(), "a block is in two nodes"
            node_of[node.blocks] = node.id
            held = pool.is_held(node.blocks)
            assert (held[:-1] >= held[1:]).all(), "a block is held, one above it is not"
            above = node.parent.blocks
            assert not held[0] or pool.is_held(above).all(), "a node is held, its parent is not"
            if self._is_evictable(node):
                assert (node.last_used, node.id) in enlisted, "a leaf would never be evicted"
        assert num_nodes == len(self._nodes), "the number of nodes is wrong"
        assert np.array_equal(node_of, self._node_of), "a block's node is wrong"
        assert np.array_equal(node_of >= 0, pool.is_cached(np.arange(node_of.size))), "a block's mark is wrong"
        assert all(root.children for root in self._roots.values()), "an empty namespace is kept"

    def _walk(self) -> Iterator[_Node]:
        pending = [child for root in self._roots.values() for child in root.children.values()]
        while pending:
            node = pending.pop()
            pending.extend(node.children.values())
            yield node

    def _root(self, namespace: str) -> _Node:
        root = self._roots.get(namespace)
        if root is None:
            root = self._roots[namespace] = _Node(self._new_id(), _NONE, _NONE, None)
            self._namespaces[root.id] = namespace
        return root

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _attach(self, parent: _Node, key: bytes, tokens: np.ndarray, blocks: np.ndarray) -> None:
        """Add a leaf, or lengthen the one that the first of ``blocks`` has had since it held fewer tokens."""
        own = int(self._node_of[blocks[0]])
        if own >= 0:
            node = self._nodes[own]
            assert node.parent is parent and node.blocks.size == 1
            parent.disown(node.tokens.tobytes())
            parent.adopt(key, node)
            self._extend(node, tokens[node.tokens.size :], blocks[1:])
            return
        node = _Node(self._new_id(), tokens.copy(), blocks.copy(), parent)
        self._nodes[node.id] = node
        self._node_of[blocks] = node.id
        self._pool.mark_cached(blocks)
        parent.adopt(key, node)
        self._touch(node)
        self._drop_superseded(parent, key)

    def _drop_superseded(self, parent: _Node, key: bytes) -> None:
        """Forget the block that holds a mere beginning of the new ``key``."""
        at = bisect_left(parent.keys, key)
        if at and key.startswith(parent.keys[at - 1]):
            self._trim(parent.children[parent.keys[at - 1]], 0)

    def _extend(self, node: _Node, tokens: np.ndarray, blocks: np.ndarray) -> None:
        """Add to a leaf; ``tokens`` first fill the last block it has."""
        node.tokens = np.concatenate([node.tokens, tokens])
        node.blocks = np.concatenate([node.blocks, blocks])
        self._node_of[blocks] = node.id
        self._pool.mark_cached(blocks)
        self._touch(node)

    def _split(self, node: _Node, num_blocks: int) -> _Node:
        """Cut a node in two, and return the upper one, of ``num_blocks``. The lower one keeps the id."""
        parent, size = node.parent, self._block_size
        assert parent is not None and 0 < num_blocks < node.blocks.size
        at = num_blocks * size
        key = node.tokens[:size].tobytes()
        upper = _Node(self._new_id(), node.tokens[:at].copy(), node.blocks[:num_blocks].copy(), parent)
        upper.last_used = node.last_used
        self._nodes[upper.id] = upper
        self._node_of[upper.blocks] = upper.id
        parent.children[key] = upper
        node.tokens, node.blocks = node.tokens[at:].copy(), node.blocks[num_blocks:].copy()
        upper.adopt(node.tokens[:size].tobytes(), node)
        return upper

    def _trim(self, leaf: _Node, keep: int) -> None:
        """Free the blocks behind the first ``keep`` of a leaf, and with the last of them the leaf."""
        parent = leaf.parent
        assert parent is not None
        gone = leaf.blocks[keep:]
        self._node_of[gone] = -1
        self._pool.unmark_cached(gone)
        if keep:
            leaf.tokens, leaf.blocks = leaf.tokens[: keep * self._block_size].copy(), leaf.blocks[:keep].copy()
            self._enlist(leaf)
            return
        parent.disown(leaf.tokens[: self._block_size].tobytes())
        del self._nodes[leaf.id]
        if parent.parent is not None:
            self._enlist(parent)
        elif not parent.children:
            del self._roots[self._namespaces.pop(parent.id)]

    def _touch(self, node: _Node) -> None:
        node.last_used = self._clock
        self._enlist(node)

    def _enlist(self, node: _Node) -> None:
        """Let a leaf that nobody holds be evicted in its turn."""
        if self._is_evictable(node):
            heapq.heappush(self._leaves, (node.last_used, node.id))
            if len(self._leaves) > 4 * len(self._nodes) + 64:  # mostly stale by now
                self._leaves = [(n.last_used, n.id) for n in self._walk() if self._is_evictable(n)]
                heapq.heapify(self._leaves)

    def _is_evictable(self, node: _Node) -> bool:
        return not node.children and not self._pool.is_held(node.blocks[-1:])[0]
