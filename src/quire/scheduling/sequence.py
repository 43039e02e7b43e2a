"""One continuation's life inside the scheduler: waiting, running, perhaps preempted and waiting again, gone.

While it runs its numbers live in SequenceSlots, at ``slot``; here is what the steady path need not look at.
"""

from quire.core.request import Request


class Sequence:
    """Continuation ``index`` of a request. Owned by the Scheduler."""

    __slots__ = (
        "copy_source",
        "followers",
        "handle",
        "is_started",
        "key",
        "leader",
        "num_passes",
        "num_prompt_logprobs",
        "request",
        "seed",
        "slot",
        "tokens",
    )

    def __init__(self, request: Request, index: int, key: tuple[int, int]) -> None:
        self.request = request
        self.handle = request.handle + index
        self.seed = (request.seed + index) % 2**64
        self.key = key
        """Seniority: smaller ones are let in first, get tokens first, and are preempted last."""
        self.tokens = request.prompt
        """[n] int32, as known when it was last put in the queue."""
        self.slot = -1
        self.copy_source = -1
        """Block that its admission copies from, held until that is done."""
        self.is_started = False
        self.num_prompt_logprobs = 0
        """Prompt positions whose log probabilities have been delivered."""
        self.leader: Sequence | None = None
        """Whose prompt it waits for, to share its KV: a sibling, or one that runs and begins alike."""
        self.followers: list[Sequence] = []
        self.num_passes = 0
        """Times a younger one was let in before it, while it was the oldest (lpm)."""

    @property
    def namespace(self) -> str:
        return self.request.cache_salt

    @property
    def max_cached_tokens(self) -> int:
        """How many of ``tokens`` may come from the prefix cache.

        One must be computed, for its logits. Prompt log probabilities need the logits of all positions that were not
        yet delivered.
        """
        if self.request.params.prompt_logprobs is not None and self.num_prompt_logprobs < self.request.prompt.size - 1:
            return self.num_prompt_logprobs
        return self.tokens.size - 1
