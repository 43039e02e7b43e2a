"""What an engine and its client say to each other, over a socket or in one process."""

import msgspec

from quire.core.request import Request
from quire.core.step import StepOutput


class Add(msgspec.Struct, frozen=True, tag="add"):
    """Run this request."""

    request: Request


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Stop these sequences; ones that have ended already are passed over."""

    handles: list[int]


class Reset(msgspec.Struct, frozen=True, tag="reset"):
    """Drop every cached prefix that no running sequence holds. Answered by Done."""

    call: int


class Check(msgspec.Struct, frozen=True, tag="check"):
    """Verify every invariant of the KV accounting now. Answered by Done."""

    call: int


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """End, aborting what runs."""


ToEngine = Add | Abort | Reset | Check | Shutdown


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """What a client must know of an engine; the first thing it says."""

    model: str
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    vocab_size: int
    block_size: int
    num_blocks: int
    dtype: str
    cache_config: dict[str, str] = {}
    """Every cache setting as text, for the cache_config_info metric."""
    notes: list[str] = []
    """What was decided for the user, one sentence each."""


class Done(msgspec.Struct, frozen=True, tag="done"):
    """A call was carried out; ``error`` says what went wrong, or is empty."""

    call: int
    error: str = ""
    num_free_blocks: int = 0
    num_cached_blocks: int = 0
    num_held_blocks: int = 0


class Step(msgspec.Struct, frozen=True, tag="step"):
    output: StepOutput


class Died(msgspec.Struct, frozen=True, tag="died"):
    """The engine cannot go on; its last words."""

    error: str
    kind: str = "EngineDead"
    """Name of the QuireError class it was."""


FromEngine = EngineInfo | Done | Step | Died
