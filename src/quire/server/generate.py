"""SGLang's fields become what the engine is asked: one Plan for each prompt."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import msgspec

from quire.core.errors import InvalidRequest
from quire.core.outputs import OutputKind
from quire.core.sampling_params import MAX_N, SamplingParams
from quire.core.structured_outputs import StructuredOutputs
from quire.server.body import validate
from quire.server.sampling import renamed
from quire.server.schema.completion import Prompt, prompts_of
from quire.server.schema.faults import bad
from quire.server.schema.sglang import ANY_JSON, MAX_NEW_TOKENS, GenerateRequest, SglangSampling
from quire.server.service import Plan, Service

_RENAMED = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "no_stop_trim": "include_stop_str_in_output",
    "sampling_seed": "seed",
    "json_schema": "structured_outputs.json",
    "regex": "structured_outputs.regex",
    "ebnf": "structured_outputs.grammar",
    "structural_tag": "structured_outputs.structural_tag",
}
_SHAPES = ("json_schema", "regex", "ebnf", "structural_tag")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt of a request, and what of it is shown."""

    plan: Plan
    wants_logprobs: bool
    logprob_start: int | None
    """Position of the prompt's first token that is shown with its score; None: none is."""
    num_top: int
    named: Sequence[int]
    """Tokens whose scores are shown in each place."""
    is_hidden: bool
    """Nothing was to be generated: the one token that is made is not shown."""


class _Scores(NamedTuple):
    """Which log probabilities are wanted of one prompt and what follows it."""

    is_wanted: bool
    start: int | None
    num_top: int
    named: Sequence[int]


def asked_of(service: Service, body: GenerateRequest, request_id: str) -> tuple[list[Asked], bool]:
    """What is asked of each prompt, and whether the answer is a list. Raises InvalidRequest or Unsupported."""
    path, prompts = _prompts(body)
    count, limit = len(prompts), service.config.max_prompts
    if count > limit:
        raise InvalidRequest(
            f"{path} holds {count} prompts: at most {limit} fit in one request (--max-prompts).", param=path
        )
    settings = _settings(body.sampling_params, count)
    _check_n(settings, max(limit, MAX_N))
    given = body.text if body.text is not None else body.input_ids
    is_list = not isinstance(given, str) and not isinstance(given[0], int)
    ids = _request_ids(body.rid, request_id, count, is_list=is_list)
    each = zip(prompts, settings, ids, _scores(body, count), _cache_salts(body, count), strict=True)
    asked = [
        Asked(
            plan=Plan(
                prompts=[prompt],
                params=_params(sampling, scores, service, root),
                kind=OutputKind.CUMULATIVE if body.stream else OutputKind.FINAL,
                request_id=own_id,
                add_special_tokens=True,
                priority=-body.priority,  # here, lower runs first
                cache_salt=cache_salt,
            ),
            wants_logprobs=scores.is_wanted,
            logprob_start=scores.start,
            num_top=scores.num_top,
            named=scores.named,
            is_hidden=sampling.max_new_tokens == 0,
        )
        for prompt, (root, sampling), own_id, scores, cache_salt in each
    ]
    return asked, is_list or settings[0][1].n > 1


def sglang_paths(body: GenerateRequest) -> AbstractContextManager[None]:
    """Let errors name the fields of this API where the engine names its own."""
    others = {
        "$.prompt": "$.text" if body.text is not None else "$.input_ids",
        "$.logprobs": "$.top_logprobs_num",
        "$.prompt_logprobs": "$.top_logprobs_num",
        "$.logprob_token_ids": "$.token_ids_logprob",
        "$.sampling_params": "$.sampling_params",
    }
    return renamed(others | _setting_paths("$.sampling_params"))


def _setting_paths(root: str) -> dict[str, str]:
    """Of settings, by the engine's names."""
    paths = {f"$.{ours}": f"{root}.{theirs}" for theirs, ours in _RENAMED.items()}
    return paths | {"$.structured_outputs": root, "$": root}


def _prompts(body: GenerateRequest) -> tuple[str, list[Prompt]]:
    if (body.text is None) == (body.input_ids is None):
        raise InvalidRequest("Exactly one of text and input_ids must be given.", param="$.text")
    if body.text is not None:
        texts = [body.text] if isinstance(body.text, str) else body.text
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise bad("$.text", body.text, "must be a string or a list of strings")
        return "$.text", prompts_of(body.text, "$.text")
    if not isinstance(body.input_ids, list) or any(isinstance(ids, str) for ids in body.input_ids):
        raise bad("$.input_ids", body.input_ids, "must be a list of token ids, or of such lists")
    return "$.input_ids", prompts_of(body.input_ids, "$.input_ids")


def _settings(value: Any, count: int) -> list[tuple[str, SglangSampling]]:
    """The settings of each prompt, with their path."""
    if isinstance(value, list):
        values = _each("$.sampling_params", value, count)
        return [(f"$.sampling_params[{i}]", _setting(one, f"$.sampling_params[{i}]")) for i, one in enumerate(values)]
    return [("$.sampling_params", _setting(value, "$.sampling_params"))] * count


def _setting(value: Any, path: str) -> SglangSampling:
    if value is None:
        return SglangSampling()
    if not isinstance(value, dict):
        raise bad(path, value, "must be an object")
    return validate(value, SglangSampling, path)


def _each(path: str, value: Any, count: int) -> list[Any]:
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise InvalidRequest(
            f"{path} has {len(value)} entries: it must have one for each of {count} prompts.", param=path
        )
    return value


def _check_n(settings: Sequence[tuple[str, SglangSampling]], limit: int) -> None:
    for path, sampling in settings:
        if sampling.n != settings[0][1].n:
            raise InvalidRequest(
                f"{path}.n is {sampling.n}, and {settings[0][1].n} elsewhere: it must be the same for all prompts.",
                param=f"{path}.n",
            )
    total = sum(sampling.n for _, sampling in settings)
    if total > limit:
        raise InvalidRequest(
            f"{len(settings)} prompts make {total} continuations: at most {limit} fit in one request.",
            param=f"{settings[0][0]}.n",
        )


def _request_ids(rid: str | list[str] | None, own: str, count: int, *, is_list: bool) -> list[str]:
    if isinstance(rid, list):
        ids = _each("$.rid", rid, count)
        places: dict[str, int] = {}
        for i, one in enumerate(ids):
            if places.setdefault(one, i) != i:
                raise bad(f"$.rid[{i}]", one, "must differ from the others: it names one request")
        return ids
    base = rid or own
    return [f"{base}_{i}" for i in range(count)] if is_list else [base]


def _scores(body: GenerateRequest, count: int) -> list[_Scores]:
    wanted = _each("$.return_logprob", body.return_logprob, count)
    starts = _each("$.logprob_start_len", body.logprob_start_len, count)
    tops, named = _each("$.top_logprobs_num", body.top_logprobs_num, count), _named(body, count)
    for is_wanted, start, num_top, ids in zip(wanted, starts, tops, named, strict=True):
        if start < -1:
            raise bad("$.logprob_start_len", start, "must be a position in the prompt, or -1 to leave it out")
        if num_top < 0:
            raise bad("$.top_logprobs_num", num_top, "must be at least 0")
        if ids and not is_wanted:
            raise bad("$.token_ids_logprob", ids, "needs return_logprob")
    return [
        _Scores(True, start if start >= 0 else None, num_top, ids) if is_wanted else _Scores(False, None, 0, ())
        for is_wanted, start, num_top, ids in zip(wanted, starts, tops, named, strict=True)
    ]


def _named(body: GenerateRequest, count: int) -> list[Sequence[int]]:
    """The ids in ``token_ids_logprob`` of each prompt: a list of them is for all."""
    given: list[Any] = body.token_ids_logprob or []
    is_for_all = not given or isinstance(given[0], int)
    return [ids or () for ids in ([given] * count if is_for_all else _each("$.token_ids_logprob", given, count))]


def _cache_salts(body: GenerateRequest, count: int) -> list[str]:
    salts, keys = _each("$.cache_salt", body.cache_salt, count), _each("$.extra_key", body.extra_key, count)
    return [f"{salt}\x1f{key}" if key else salt for salt, key in zip(salts, keys, strict=True)]


def _params(sampling: SglangSampling, scores: _Scores, service: Service, root: str) -> SamplingParams:
    """One prompt's settings, in the place of the model's own defaults."""
    values = {
        **service.llm.default_params,
        "logprobs": scores.num_top if scores.is_wanted else None,
        "prompt_logprobs": None if scores.start is None else scores.num_top,
        "logprob_token_ids": scores.named,
    }
    for name in sampling.model_fields_set.difference(_SHAPES):
        values[_RENAMED.get(name, name)] = getattr(sampling, name)
    if sampling.max_new_tokens is None:
        values["max_tokens"] = min(MAX_NEW_TOKENS, service.llm.info.max_model_len)
    values["max_tokens"] = max(1, values["max_tokens"])
    with renamed(_setting_paths(root)):
        return SamplingParams(**values, structured_outputs=_shape(sampling))


def _shape(sampling: SglangSampling) -> StructuredOutputs | None:
    given = [name for name in _SHAPES if getattr(sampling, name) not in (None, "")]
    if len(given) > 1:
        raise InvalidRequest(
            f"{' and '.join(given)} are given: an answer can have one shape only.", param=f"$.{given[1]}"
        )
    if not given:
        return None
    if sampling.json_schema == ANY_JSON:
        return StructuredOutputs(json_object=True)
    return StructuredOutputs(
        json=sampling.json_schema or None,
        regex=sampling.regex or None,
        grammar=sampling.ebnf or None,
        structural_tag=sampling.structural_tag or None,
    )
