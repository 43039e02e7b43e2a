"""What operators ask and are told: vLLM's query parameters, and the bodies of both vLLM and SGLang."""

from typing import Any, ClassVar, Literal

import msgspec
from pydantic import Field

from quire.core.messages import WakeTag
from quire.engine.control import PauseMode
from quire.server.schema.common import QueryModel, RequestModel
from quire.server.schema.refused import Refusals


class PauseQuery(QueryModel):
    mode: PauseMode = Field(default="abort", description="end requests that run, wait for them, or keep them for later")
    wait_for_inflight_requests: bool = Field(default=False, description="older name of mode=wait")
    clear_cache: bool = Field(default=True, description="forget cached prefixes too; not with mode=keep")


class SleepQuery(QueryModel):
    level: int = Field(default=1, ge=0, le=2, description="give back 0 nothing, 1 the KV cache, 2 the weights too")
    mode: PauseMode = Field(default="abort", description="end requests that run, wait for them, or keep them for later")


class WakeUpQuery(QueryModel):
    tags: tuple[WakeTag, ...] = Field(default=(), max_length=8, description="what to wake up; none means all")


class ResetQuery(QueryModel):
    reset_running_requests: bool = Field(default=False, description="running requests let go of their prefixes too")
    reset_external: bool = Field(default=False, description="caches outside of the engine too, of which there are none")


class SchemaQuery(QueryModel):
    all: bool = Field(default=False, description="also what stops the service for everyone, such as /sleep")


class AbortRequest(RequestModel):
    """One request by SGLang's names, or all."""

    refused: ClassVar[Refusals] = {}

    rid: str = Field(default="", max_length=1024, description="the request's id, or that of one of its prompts")
    abort_all: bool = Field(default=False, description="or name the request")


class AbortRequests(RequestModel):
    """Several requests by vLLM's name; none named means all."""

    refused: ClassVar[Refusals] = {}

    request_ids: list[str] | str = Field(default_factory=list, description="ids as answers and headers give them")


class Aborted(msgspec.Struct, frozen=True):
    aborted: int
    """Requests that were ended."""
    status: Literal["aborted"] = "aborted"


class Status(msgspec.Struct, frozen=True):
    status: Literal["paused", "resumed"]


class Asleep(msgspec.Struct, frozen=True, kw_only=True):
    status: Literal["sleeping"] = "sleeping"
    level: int


class WokenUp(msgspec.Struct, frozen=True, kw_only=True):
    status: Literal["sleeping", "awake"]
    """Sleeping, while something of what computing needs is."""
    tags: tuple[WakeTag, ...] | None
    """What was to wake up; null means all."""


class Success(msgspec.Struct, frozen=True):
    success: bool


class IsPaused(msgspec.Struct, frozen=True):
    is_paused: bool


class IsSleeping(msgspec.Struct, frozen=True):
    is_sleeping: bool


class Load(msgspec.Struct, frozen=True):
    server_load: int
    """Requests that have not been answered to their end."""
    num_running: int
    """Sequences that the engine computes."""
    num_waiting: int


ServerInfo = dict[str, Any]
