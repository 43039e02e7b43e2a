"""What an engine and its client say to each other, over a socket or in one process."""

from typing import Literal, get_args

import msgspec

from quire.core.request import Request
from quire.core.step import StepOutput

AWAKE = -1
"""The sleep level of an engine that is not asleep."""


class Add(msgspec.Struct, frozen=True, tag="add"):
    """Run this request."""

    request: Request


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Stop these sequences; ones that have ended already are passed over."""

    handles: list[int]


class Reset(msgspec.Struct, frozen=True, tag="reset"):
    """Drop every cached prefix that no running sequence holds. Answered by Done.

    ``preempt``: running sequences let go of theirs too; they compute them again, and their tokens are the same.
    """

    call: int
    preempt: bool = False


class Check(msgspec.Struct, frozen=True, tag="check"):
    """Verify every invariant of the KV accounting now. Answered by Done."""

    call: int


class Pause(msgspec.Struct, frozen=True, tag="pause"):
    """Schedule nothing until Resume. Answered by Done when that is so.

    ``drain``: only when all that run or wait now have ended. ``clear``: drop the cached prefixes then.
    """

    call: int
    drain: bool = False
    clear: bool = False


class Resume(msgspec.Struct, frozen=True, tag="resume"):
    """Go on where a Pause stopped. Answered by Done; a Conflict while asleep."""

    call: int


class Sleep(msgspec.Struct, frozen=True, tag="sleep"):
    """Pause, and give memory back. Answered by Done when that is so.

    Level 0 gives nothing back, 1 the KV cache, 2 the weights too. Sequences that are there after ``drain`` lose their
    KV and keep their tokens.
    """

    call: int
    level: int
    drain: bool = False


class WakeUp(msgspec.Struct, frozen=True, tag="wake_up"):
    """Take memory again, and resume when all of it is there. Answered by Done.

    ``tags``: which of WAKE_TAGS; none means all.
    """

    call: int
    tags: list[str] = []


Order = Pause | Resume | Sleep | WakeUp
ToEngine = Add | Abort | Reset | Check | Order

SLEEP_LEVELS = (0, 1, 2)
WakeTag = Literal["weights", "kv_cache", "scheduling"]
WAKE_TAGS: tuple[WakeTag, ...] = get_args(WakeTag)


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """What a client must know of an engine; the first thing it says."""

    model: str
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_num_interleaved_tokens: int
    vocab_size: int
    block_size: int
    num_blocks: int
    dtype: str
    cache_config: dict[str, str] = {}
    """Every cache setting as text, for the cache_config_info metric."""
    notes: list[str] = []
    """What was decided for the user, one sentence each."""


class Done(msgspec.Struct, frozen=True, tag="done"):
    """A call was carried out; ``error`` says what went wrong, or is empty, and ``kind`` which QuireError it was."""

    call: int
    error: str = ""
    kind: str = ""
    num_free_blocks: int = 0
    num_cached_blocks: int = 0
    num_held_blocks: int = 0
    is_paused: bool = False
    sleep_level: int = AWAKE


class Step(msgspec.Struct, frozen=True, tag="step"):
    output: StepOutput


class Died(msgspec.Struct, frozen=True, tag="died"):
    """The engine cannot go on; its last words."""

    error: str
    kind: str = "EngineDead"
    """Name of the QuireError class it was."""


FromEngine = EngineInfo | Done | Step | Died
