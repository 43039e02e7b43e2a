"""What every route needs: the engine, the settings, the names it answers to, and what it is running.

One for each application; lives in ``app.state.service``. Owns the set of running generations, which a shutdown waits
for and then aborts.
"""

import asyncio
import hashlib
import re
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request

from quire.core.config import ServerConfig
from quire.core.errors import EngineDead, ModelNotFound, Overloaded, QuireError
from quire.core.sampling_params import SamplingParams
from quire.engine.assembler import OutputKind
from quire.server.generation import Generation
from quire.server.metrics import Metrics
from quire.version import __version__

if TYPE_CHECKING:
    from quire.engine.async_llm import AsyncLLM

SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks of the engine, once its fields are understood."""

    prompts: Sequence[str | list[int]]
    params: SamplingParams
    kind: OutputKind
    request_id: str
    add_special_tokens: bool
    priority: int
    cache_salt: str


class Service:
    """One application's engine, settings, served names and running generations."""

    def __init__(self, llm: "AsyncLLM", config: ServerConfig, served_names: Sequence[str]) -> None:
        assert served_names, "a model is served under at least one name"
        self.llm = llm
        self.config = config
        self.served_names = tuple(served_names)
        self.metrics = Metrics(llm, self.served_names[0])
        self.created = int(time.time())
        self.is_draining = False
        self.running: set[Generation] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        identity = f"{llm.config.model.model} {llm.info.dtype}".encode()
        self.fingerprint = f"quire-{__version__}-{hashlib.sha256(identity).hexdigest()[:8]}"

    def unavailable(self) -> QuireError | None:
        """Why no request can be taken now, or None."""
        if self.llm.failure is not None:
            return EngineDead(f"The engine is down: {self.llm.failure}", retry_after_s=5)
        if self.is_draining:
            return Overloaded("The server is shutting down and takes no more requests.", retry_after_s=5)
        return None

    def model(self, name: str | None) -> str:
        """The name to answer with; raises ModelNotFound if the one asked for is not served here."""
        if name is not None and name not in self.served_names:
            raise ModelNotFound(
                f"The model {name[:200]!r} is not served here: use {' or '.join(map(repr, self.served_names))}.",
                param="$.model",
            )
        return self.served_names[0]

    async def generate(self, plan: Plan) -> Generation:
        """Submit every prompt, or none; the caller closes the generation.

        Raises what the engine's door raises, with the path of the prompt at fault.
        """
        if (error := self.unavailable()) is not None:
            raise error
        generation = Generation(self._forget)
        self.running.add(generation)
        self._idle.clear()
        try:
            for i, prompt in enumerate(plan.prompts):
                try:
                    stream = await self.llm.submit(
                        prompt,
                        plan.params,
                        request_id=plan.request_id if len(plan.prompts) == 1 else f"{plan.request_id}-{i}",
                        kind=plan.kind,
                        add_special_tokens=plan.add_special_tokens,
                        priority=plan.priority,
                        cache_salt=plan.cache_salt,
                    )
                except QuireError as refusal:
                    if refusal.param == "$.prompt" and len(plan.prompts) > 1:
                        refusal.param = f"$.prompt[{i}]"
                    raise
                generation.streams.append(stream)
        except BaseException:
            generation.close()
            raise
        return generation

    def abort_all(self) -> None:
        """End everything that runs; its clients get what there is, with finish_reason abort."""
        for generation in list(self.running):
            generation.abort()

    async def idle(self) -> None:
        """Return when nothing runs."""
        await self._idle.wait()

    def _forget(self, generation: Generation) -> None:
        self.running.discard(generation)
        if not self.running:
            self._idle.set()


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def request_id_of(request: Request, wanted: str | None = None) -> str:
    """The id of this HTTP request: the body's own, the header's, or a fresh one."""
    given: str | None = wanted or request.scope.get("quire.request_id")
    return given or uuid.uuid4().hex
