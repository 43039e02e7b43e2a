"""Who waits, and who is next.

Law: the list is sorted by seniority (``Sequence.key``), so a preempted sequence stands before all that came later.
The policies differ in the key (priority puts the request's priority before its arrival) and in who is taken: the
first, or under lpm (longest prefix match) the one of the oldest few of which most is cached.
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from operator import attrgetter

from quire.core.config import Policy
from quire.scheduling.sequence import Sequence

_KEY = attrgetter("key")
LPM_WINDOW = 32
"""lpm looks at this many of the oldest, and passes the oldest over this many times at most."""


class WaitingQueue:
    """Sequences without a slot. Owned by the Scheduler.

    ``num_cached`` says how many of a sequence's tokens could come from the cache, ``generation`` when that may have
    changed; both are used by lpm only.
    """

    def __init__(self, policy: Policy, num_cached: Callable[[Sequence], int], generation: Callable[[], int]) -> None:
        self._policy = policy
        self._num_cached = num_cached
        self._generation = generation
        self._lengths: dict[int, int] = {}  # by handle: what num_cached said in generation _lengths_of
        self._lengths_of = -1
        self._ready: list[Sequence] = []
        self._num_followers = 0
        self._num_tokens = 0

    def __len__(self) -> int:
        """Sequences waiting, including those that wait for another's prompt."""
        return len(self._ready) + self._num_followers

    @property
    def num_tokens(self) -> int:
        """Tokens of all that wait."""
        return self._num_tokens

    @property
    def is_empty(self) -> bool:
        """Whether none could be taken now."""
        return not self._ready

    def add(self, sequence: Sequence) -> None:
        """Put a sequence where its seniority says; or aside, if it waits for its ``leader``."""
        self._num_tokens += sequence.tokens.size
        if sequence.leader is not None:
            sequence.leader.followers.append(sequence)
            self._num_followers += 1
        else:
            insort(self._ready, sequence, key=_KEY)

    def remove(self, sequence: Sequence) -> None:
        """Take a waiting sequence out."""
        self._num_tokens -= sequence.tokens.size
        if sequence.leader is not None:
            sequence.leader.followers.remove(sequence)
            sequence.leader = None
            self._num_followers -= 1
            return
        at = bisect_left(self._ready, sequence.key, key=_KEY)
        assert self._ready[at] is sequence
        del self._ready[at]

    def follow(self, sequence: Sequence, leader: Sequence) -> None:
        """Put a sequence that was to be let in aside, until the prompt of ``leader``, which runs, is computed."""
        self.remove(sequence)
        sequence.leader = leader
        self.add(sequence)

    def release_followers(self, leader: Sequence, is_prompt_computed: bool) -> None:
        """Let those waiting for ``leader`` go on; if its prompt is not in the KV, only one, whom the rest follow."""
        followers, leader.followers = leader.followers, []
        ready = followers if is_prompt_computed else followers[:1]
        for sequence in ready:
            sequence.leader = None
            self._num_followers -= 1
            insort(self._ready, sequence, key=_KEY)
        for sequence in followers[len(ready) :]:
            sequence.leader = ready[0]
            ready[0].followers.append(sequence)

    def next(self) -> Sequence:
        """Who is to be let in next; stays in the queue."""
        oldest = self._ready[0]
        if self._policy != "lpm" or oldest.num_passes >= LPM_WINDOW:
            return oldest
        if self._lengths_of != self._generation():
            self._lengths_of = self._generation()
            self._lengths.clear()
        window = self._ready[:LPM_WINDOW]
        for sequence in window:
            if sequence.handle not in self._lengths:
                self._lengths[sequence.handle] = self._num_cached(sequence)
        return max(window, key=lambda sequence: self._lengths[sequence.handle])

    def take(self, sequence: Sequence) -> None:
        """Remove the sequence that is being let in."""
        if sequence is not self._ready[0]:
            self._ready[0].num_passes += 1
        self.remove(sequence)

    def check(self, waiting: list[Sequence]) -> None:
        """Verify the law and the counts; ``waiting`` are all sequences that should be here."""
        assert [s.key for s in self._ready] == sorted(s.key for s in self._ready), "the queue is out of order"
        aside = [follower for s in waiting for follower in s.followers]
        assert all(s.leader is None for s in self._ready), "a sequence waits for another, and does not"
        assert self._num_tokens == sum(s.tokens.size for s in waiting), "the number of waiting tokens is wrong"
        assert len(self) == len(waiting), "the number of waiting sequences is wrong"
        assert {s.handle for s in waiting} >= {s.handle for s in [*self._ready, *aside]}, "a stranger is waiting"
