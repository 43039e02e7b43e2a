"""The offline face: ``LLM(model).generate(prompts)``, in one process, with no server.

The same names and outputs as vLLM's ``LLM``, so that a script changes one import.
"""

import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from quire.checkpoint.resolve import resolve
from quire.core import errors, threads
from quire.core.config import DEFAULT_MODEL
from quire.core.errors import Asleep, GenerationFailed, InvalidRequest
from quire.core.keywords import engine_config
from quire.core.messages import Abort, Add, Check, Done, EngineInfo, Order, Reset, Sleep, WakeUp
from quire.core.outputs import BeamSearchOutput, OutputKind, RequestOutput
from quire.core.sampling_params import BeamSearchParams, SamplingParams
from quire.core.step import EngineStats, FinishReason
from quire.engine.assembler import Assembler
from quire.engine.beam_search import BeamSearch
from quire.engine.control import PauseMode, check_mode
from quire.engine.intake import Intake
from quire.prompts import Message, Prompt, conversations_of, one_for_each, prompts_of, read_prompt
from quire.text.grammar.door import GrammarDoor
from quire.text.model_text import ModelText
from quire.text.tokenizer import Tokenizer

_OFFLINE: dict[str, Any] = {"seed": 0, "max_num_interleaved_tokens": sys.maxsize}
"""Defaults that are not the server's. Nobody reads along, so decodes may wait for prompts: few large steps read
weights less often."""


class LLM:
    """A model to generate with. Settings are the fields of core.config, by name: ``LLM(model, max_model_len=4096)``;
    other programs' names for them are understood too.

    Belongs to one thread. Raises ModelUnavailable, CorruptCheckpoint, UnsupportedModel or ConfigError.
    """

    def __init__(self, model: str = DEFAULT_MODEL, **settings: Any) -> None:
        config = engine_config(_OFFLINE | {"model": model} | settings)
        threads.settle()  # before torch is imported
        from quire.engine.inline import InlineClient

        path = resolve(
            model,
            revision=config.model.revision,
            download_dir=config.model.download_dir,
            hf_token=config.model.hf_token,
        )
        text = ModelText.load(path, config.model)
        self._tokenizer = text.tokenizer
        self._chat_template = text.chat_template
        self._default_params = text.default_params
        self._client = InlineClient(config.located(path))
        self._assembler = Assembler(text.tokenizer, text.eos_token_ids)
        self._intake = Intake(
            self._client.info,
            text.tokenizer,
            text.eos_token_ids,
            max_logprobs=config.model.max_logprobs,
            seed=config.model.seed,
            reasoning=text.dialects.reasoning,
        )
        self._grammars = GrammarDoor(text.tokenizer, text.eos_token_ids, self._client.info.vocab_size)

    @property
    def info(self) -> EngineInfo:
        """What was decided about context, memory and batch size."""
        return self._client.info

    @property
    def stats(self) -> EngineStats:
        """Gauges of this moment and counters since the start."""
        return self._client.stats

    def get_tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """What ``generate`` uses when it is given no params: the model's own defaults."""
        return SamplingParams(**self._default_params)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        priority: int | Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Continue each prompt; outputs come in the order of the prompts.

        ``sampling_params``, ``priority``: one for all, or one for each prompt. Raises InvalidRequest before anything
        runs if any prompt or its params cannot be used, and GenerationFailed, which has the outputs of all, once all
        are over and some failed.
        """
        each = prompts_of(prompts)
        if sampling_params is None:
            sampling_params = self.get_default_sampling_params()
        params = one_for_each("sampling_params", sampling_params, SamplingParams, len(each))
        priorities = one_for_each("priority", 0 if priority is None else priority, int, len(each))
        return self._run([self._add(*one) for one in zip(each, params, priorities, strict=True)], use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: list[dict[str, Any]] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        priority: int | Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation or several; each is a list of {"role", "content"}. The rest is as in ``generate``."""
        if self._chat_template is None:
            raise InvalidRequest("This model has no chat template: use generate, or give LLM(chat_template=...).")
        if chat_template_kwargs is not None and not isinstance(chat_template_kwargs, Mapping):
            raise InvalidRequest(
                f"chat_template_kwargs is {chat_template_kwargs!r:.100}: it must be a dict of its variables.",
                param="$.chat_template_kwargs",
            )
        prompts: list[Prompt] = [
            self._tokenizer.encode(
                self._chat_template.render(
                    conversation,
                    tools=tools,
                    add_generation_prompt=add_generation_prompt and not continue_final_message,
                    continue_final_message=continue_final_message,
                    variables=chat_template_kwargs,
                ),
                add_special_tokens=False,
            )
            for conversation in conversations_of(messages)
        ]
        return self.generate(prompts, sampling_params, use_tqdm=use_tqdm, priority=priority)

    def beam_search(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: BeamSearchParams,
        *,
        use_tqdm: bool = False,
        concurrency_limit: int | None = None,
    ) -> list[BeamSearchOutput]:
        """The ``params.beam_width`` best continuations of each prompt, as transformers' beam search finds them.

        ``concurrency_limit``: at most so many prompts at once; None: all. Raises InvalidRequest.
        """
        if not isinstance(params, BeamSearchParams):
            raise InvalidRequest(f"params is {params!r:.100}: it must be BeamSearchParams.", param="$.params")
        each = [read_prompt(prompt, self._tokenizer) for prompt in prompts_of(prompts)]
        at_once = max(1, len(each)) if concurrency_limit is None else concurrency_limit
        if at_once < 1:
            raise InvalidRequest(f"concurrency_limit is {at_once}: it must be at least 1.", param="$.concurrency_limit")
        bar = _progress(len(each)) if use_tqdm else None
        outputs = []
        for first in range(0, len(each), at_once):
            searches = [self._search(ids, salt, params) for _, ids, salt in each[first : first + at_once]]
            while pending := [search for search in searches if not search.beams.is_over]:
                self._advance(pending)
            outputs += [search.output() for search in searches]
            if bar is not None:
                bar.update(len(searches))
        if bar is not None:
            bar.close()
        return outputs

    def reset_prefix_cache(self) -> bool:
        """Forget every cached prefix; True, since between two calls nobody holds any."""
        done = self._client.send(Reset(0))
        return done is not None and done.num_held_blocks == 0

    def sleep(self, level: int = 1, mode: PauseMode = "abort") -> None:
        """Generate nothing until ``wake_up``, and give memory back: 0 none, 1 the KV cache, 2 the weights too.

        ``mode`` says what becomes of requests that run, of which there are none between two calls.
        """
        check_mode(mode)
        self._order(Sleep(0, level))

    def wake_up(self, tags: Sequence[str] | None = None) -> None:
        """Take memory again, ``weights`` (read anew from the files) or ``kv_cache``, or all; then generate again.

        Raises what loading a model raises, or Conflict where there is no memory.
        """
        self._order(WakeUp(0, list(tags or ())))

    @property
    def is_sleeping(self) -> bool:
        return self._client.is_paused

    def check(self) -> Done:
        """Verify the KV accounting; the answer's ``error`` is empty when all is well."""
        answer = self._client.send(Check(0))
        assert isinstance(answer, Done)
        return answer

    def _order(self, order: Order) -> None:
        done = self._client.send(order)
        assert done is not None, "nothing has to end between two calls"
        if done.error:
            raise errors.of_kind(done.kind, done.error)

    def _add(self, prompt: Prompt, params: SamplingParams, priority: int) -> tuple[Add, str | None]:
        text, ids, salt = read_prompt(prompt, self._tokenizer)
        shape = params.structured_outputs
        request = self._intake.request(
            ids,
            params,
            request_id=uuid.uuid4().hex,
            priority=priority,
            cache_salt=salt,
            grammar=None if shape is None else self._grammars.check(shape),
        )
        return Add(request), text

    def _search(self, ids: Sequence[int], salt: str, params: BeamSearchParams) -> "_Search":
        beams = BeamSearch(params, self._tokenizer, self._intake.eos_token_ids, max_logprobs=self._intake.max_logprobs)
        beams.limit(self._intake.room(ids))
        return _Search(list(ids), salt, beams)

    def _advance(self, searches: "Sequence[_Search]") -> None:
        """Take one step of each, all in one batch."""
        asked: list[tuple[Add, str | None]] = [
            self._add(
                {"prompt_token_ids": [*search.prompt_ids, *hypothesis.token_ids], "cache_salt": search.salt},
                search.beams.step_params,
                0,
            )
            for search in searches
            for hypothesis in search.beams.live
        ]
        answers = iter(self._run(asked, use_tqdm=False))
        for search in searches:
            found = [next(answers).outputs[0].logprobs for _ in search.beams.live]
            search.beams.advance([entries[0] for entries in found if entries])

    def _run(self, adds: list[tuple[Add, str | None]], use_tqdm: bool) -> list[RequestOutput]:
        if self.is_sleeping:
            raise Asleep("This LLM sleeps: call wake_up() first.")
        done: dict[int, RequestOutput] = {}
        bar = _progress(len(adds)) if use_tqdm else None
        try:
            for add, text in adds:
                self._assembler.add(add.request, text, OutputKind.FINAL)
                self._client.send(add)
            with self._client.stepping():
                while self._client.has_work:
                    for step in self._client.step():
                        updates, cut = self._assembler.process(step)
                        if cut:
                            self._client.send(Abort(cut))
                        for update in updates:
                            done[update.handle] = update.output
                        if bar is not None:
                            bar.update(len(updates))
        finally:
            if bar is not None:
                bar.close()
            self._abandon(adds, done)
        outputs = [done[add.request.handle] for add, _ in adds]
        reasons = {
            output.request_id: completion.stop_reason
            for output in outputs
            for completion in output.outputs
            if completion.finish_reason == FinishReason.ERROR
        }
        if reasons:
            first, reason = next(iter(reasons.items()))
            raise GenerationFailed(
                f"Request {first} failed: {reason}. {len(reasons)} of {len(outputs)} did; the outputs of all are this "
                "error's outputs.",
                outputs=outputs,
            )
        return outputs

    def _abandon(self, adds: list[tuple[Add, str | None]], done: dict[int, RequestOutput]) -> None:
        """After an interruption: free what still runs, so that the next call starts clean."""
        for add, _ in adds:
            if add.request.handle not in done:
                _, handles = self._assembler.abort(add.request, FinishReason.ABORT, 0.0)
                if handles:
                    self._client.send(Abort(handles))


class _Search(NamedTuple):
    """One prompt's beam search."""

    prompt_ids: list[int]
    salt: str
    beams: BeamSearch

    def output(self) -> BeamSearchOutput:
        return BeamSearchOutput(self.beams.sequences(self.prompt_ids))


def _progress(total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="prompts", unit="prompt", dynamic_ncols=True)
