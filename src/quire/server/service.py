"""What every route needs: the engine, the settings, the names it answers to, and what it is running.

One for each application; lives in ``app.state.service``. Owns the set of running generations, which a shutdown waits
for and then aborts.
"""

import asyncio
import hashlib
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.requests import Request

from quire.core.config import ServerConfig
from quire.core.errors import EngineDead, ModelNotFound, Overloaded, QuireError
from quire.core.outputs import OutputKind
from quire.core.sampling_params import SamplingParams
from quire.engine.beam_stream import BeamStream
from quire.server.beams import Beams, search_params
from quire.server.generation import Generation
from quire.server.metrics import Metrics
from quire.server.response_store import ResponseStore
from quire.server.schema.common import StreamOptions
from quire.server.schema.generation import GenerationRequest
from quire.text.chat import ChatTemplate
from quire.version import __version__

if TYPE_CHECKING:
    from quire.engine.async_llm import AsyncLLM
    from quire.server.generation import Stream
    from quire.text.tokenizer import Tokenizer

G = TypeVar("G", bound=GenerationRequest)

_MAX_TEMPLATES = 16
_ANSWER_PREFIX = re.compile(r"^(chatcmpl-|cmpl-|resp_|msg_)")
"""What answers put before the id of their request."""
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
    beams: Beams | None = None
    """Search for the ``params.n`` best instead of sampling."""
    grammar: str | None = None
    """Of the whole reply; without one, that of ``params.structured_outputs``."""


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
        self.responses = ResponseStore(config.max_stored_responses, config.max_stored_response_bytes)
        self._templates: OrderedDict[str, ChatTemplate] = OrderedDict()
        self._idle = asyncio.Event()
        self._idle.set()
        identity = f"{llm.config.model.model} {llm.info.dtype}".encode()
        self.dialects = llm.dialects
        self.marker_ids = _ids_of(self.dialects.markers, llm.tokenizer)
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

    def with_defaults(self, body: G) -> G:
        """The request, with what this server's flags ask for in its place."""
        asked: dict[str, Any] = {}
        if self.config.enable_force_include_usage and body.stream:
            asked["stream_options"] = StreamOptions(include_usage=True, continuous_usage_stats=True)
        if self.config.return_tokens_as_token_ids and "return_tokens_as_token_ids" not in body.model_fields_set:
            asked["return_tokens_as_token_ids"] = True
        return body.model_copy(update=asked) if asked else body

    async def generate(self, plan: Plan) -> Generation:
        """Submit every prompt, or none; the caller closes the generation.

        Raises what the engine's door raises, with the path of the prompt at fault.
        """
        return await self.generate_all([plan], plan.request_id)

    async def generate_all(self, plans: Sequence[Plan], request_id: str) -> Generation:
        """Submit every prompt of every plan, as one request; otherwise like ``generate``."""
        if (error := self.unavailable()) is not None:
            raise error
        generation = Generation(self._forget, request_id)
        self.running.add(generation)
        self._idle.clear()
        try:
            for plan in plans:
                for i, prompt in enumerate(plan.prompts):
                    own_id = plan.request_id if len(plan.prompts) == 1 else f"{plan.request_id}-{i}"
                    generation.streams.append(await self._submit(prompt, plan, own_id))
        except QuireError as refusal:
            generation.close()
            if refusal.param == "$.prompt" and sum(len(plan.prompts) for plan in plans) > 1:
                refusal.param = f"$.prompt[{len(generation.streams)}]"
            raise
        except BaseException:
            generation.close()
            raise
        return generation

    async def _submit(self, prompt: str | list[int], plan: Plan, request_id: str) -> "Stream":
        options: dict[str, Any] = {
            "request_id": request_id,
            "add_special_tokens": plan.add_special_tokens,
            "priority": plan.priority,
            "cache_salt": plan.cache_salt,
        }
        if plan.beams is None:
            return await self.llm.submit(prompt, plan.params, kind=plan.kind, grammar=plan.grammar, **options)
        return await BeamStream.begin(
            self.llm,
            prompt,
            search_params(plan.params, plan.beams),
            n=plan.params.n,
            truncate_prompt_tokens=plan.params.truncate_prompt_tokens,
            truncation_side=plan.params.truncation_side,
            **options,
        )

    def request_template(self, source: str) -> ChatTemplate:
        """A template that a request brought, compiled once for as long as it is among the last ones used."""
        if source in self._templates:
            self._templates.move_to_end(source)
            return self._templates[source]
        tokenizer = self.llm.tokenizer
        template = ChatTemplate(source, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token)
        self._templates[source] = template
        if len(self._templates) > _MAX_TEMPLATES:
            self._templates.popitem(last=False)
        return template

    def abort_all(self) -> None:
        """End everything that runs; its clients get what there is, with finish_reason abort."""
        for generation in list(self.running):
            generation.abort()

    def abort(self, ids: Sequence[str] | None) -> int:
        """End the requests of these ids, or all; how many there were.

        An id is a request's own (the header's), the one in its answer, or that of one of its prompts, ``ID-0``.
        """
        if ids is None:
            found = len(self.running)
            self.abort_all()
            return found
        wanted = {bare for given in ids for bare in (given, _ANSWER_PREFIX.sub("", given))}
        found = 0
        for generation in list(self.running):
            if generation.request_id in wanted:
                generation.abort()
                found += 1
                continue
            for stream in generation.streams:
                if stream.request.request_id in wanted:
                    stream.abort()
                    found += 1
        return found

    async def idle(self) -> None:
        """Return when nothing runs."""
        await self._idle.wait()

    def _forget(self, generation: Generation) -> None:
        self.running.discard(generation)
        if not self.running:
            self._idle.set()


def _ids_of(markers: Iterable[str], tokenizer: "Tokenizer") -> tuple[int, ...]:
    """Of those that are tokens."""
    found = (tokenizer.token_to_id(marker) for marker in markers)
    return tuple(token_id for token_id in found if token_id is not None)


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def request_id_of(request: Request, wanted: str | None = None) -> str:
    """The id of this HTTP request: the body's own, the header's, or a fresh one."""
    given: str | None = wanted or request.scope.get("quire.request_id")
    return given or uuid.uuid4().hex
