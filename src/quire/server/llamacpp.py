"""llama.cpp's door: its settings become SamplingParams, its prompts strings or token ids.

A setting comes from the request, else from the model's own defaults, else from llama.cpp's.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quire.core.errors import InvalidRequest, Unsupported
from quire.core.sampling_params import SamplingParams
from quire.core.structured_outputs import StructuredOutputs
from quire.server.penalties import NO_PENALTIES
from quire.server.schema.faults import bad
from quire.server.schema.llamacpp import LlamaCppOptions

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer

Prompt = str | list[str | int]
"""Text, or pieces: text and token ids."""

PATHS = {
    "$.logprobs": "$.n_probs",
    "$.repetition_penalty": "$.repeat_penalty",
    "$.structured_outputs.grammar": "$.grammar",
    "$.structured_outputs.json": "$.json_schema",
    "$.structured_outputs": "$.json_schema",
    "$.max_tokens": "$.n_predict",
}
"""Of fields, where the engine's names for them are others."""

SAMPLERS = ("penalties", "temperature", "min_p", "top_k", "top_p")
"""Those that there are, in the order in which they are applied."""

_OFF: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
_DEFAULTS: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
_ALIASES = {"temp": "temperature", "nucleus": "top_p"}
_ELSEWHERE = frozenset(("dry", "top_n_sigma", "typ_p", "typical", "typical_p", "xtc", "infill", "adaptive_p"))
"""Samplers that are turned on by a setting of their own, which is refused; and one for filling in."""
_LETTERS = {
    "e": "penalties",
    "d": "dry",
    "y": "typ_p",
    "k": "top_k",
    "p": "top_p",
    "s": "top_n_sigma",
    "m": "min_p",
    "t": "temperature",
    "x": "xtc",
    "i": "infill",
    "a": "adaptive_p",
}
_PENALTY_WINDOW = 64
_FRESH_SEEDS = (-1, 2**32 - 1)
_NEVER = -100.0
"""The bias of a token that must not appear."""


def params_of(
    body: LlamaCppOptions,
    defaults: Mapping[str, Any],
    tokenizer: "Tokenizer",
    *,
    eos_token_ids: Sequence[int],
    max_model_len: int,
) -> SamplingParams:
    """Raises InvalidRequest or Unsupported.

    With ``n_predict: 0`` one token is made, which is not to be shown. More than the context holds is what it holds.
    With ``ignore_eos`` no end is made, rather than passed over: the model would begin another text behind it.
    """
    bias = _bias(body.logit_bias, tokenizer)
    if body.ignore_eos:
        bias |= dict.fromkeys(eos_token_ids, _NEVER)
    limit = body.n_predict if body.n_predict is not None else body.max_tokens
    stop = body.stop or ()
    return SamplingParams(
        n=num_continuations(body),
        max_tokens=None if limit is None or limit < 0 else min(max(1, limit), max_model_len),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        seed=None if body.seed in _FRESH_SEEDS else body.seed,
        ignore_eos=body.ignore_eos,
        logprobs=body.n_probs or None,
        logit_bias=bias or None,
        structured_outputs=_shape(body),
        **_chosen(body, defaults, max_model_len),
    )


def num_continuations(body: LlamaCppOptions) -> int:
    """Of each prompt."""
    return body.n_cmpl or body.n or 1


def prompts_of(value: Any) -> list[Prompt]:
    """One prompt or several, of the forms that llama.cpp takes; raises InvalidRequest naming what is none."""
    is_one = not isinstance(value, list) or (bool(value) and any(type(piece) is int for piece in value))
    if is_one:
        return [_prompt(value, "$.prompt")]
    if not value:
        raise bad("$.prompt", value, "must hold a prompt")
    return [_prompt(one, f"$.prompt[{i}]") for i, one in enumerate(value)]


def encode(prompt: Prompt, tokenizer: "Tokenizer") -> list[int]:
    """Token ids; the text that comes first is framed as every text is."""
    pieces = [prompt] if isinstance(prompt, str) else prompt
    ids: list[int] = []
    for i, piece in enumerate(pieces):
        ids += [piece] if isinstance(piece, int) else tokenizer.encode(piece, i == 0)
    return ids


def settings_of(params: SamplingParams, max_model_len: int) -> dict[str, Any]:
    """What an answer says of how its tokens were chosen: what was done, and that the rest is off."""
    shape = params.structured_outputs
    return {
        "n_predict": -1 if params.max_tokens is None else params.max_tokens,
        "max_tokens": -1 if params.max_tokens is None else params.max_tokens,
        "seed": _FRESH_SEEDS[1] if params.seed is None else params.seed,
        "temperature": params.temperature,
        "dynatemp_range": 0.0,
        "dynatemp_exponent": 1.0,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "top_n_sigma": -1.0,
        "xtc_probability": 0.0,
        "xtc_threshold": 0.1,
        "typical_p": 1.0,
        "repeat_last_n": _PENALTY_WINDOW if params.penalty_window is None else params.penalty_window,
        "repeat_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "dry_multiplier": 0.0,
        "dry_base": 1.75,
        "dry_allowed_length": 2,
        "dry_penalty_last_n": max_model_len,
        "mirostat": 0,
        "mirostat_tau": 5.0,
        "mirostat_eta": 0.1,
        "adaptive_target": -1.0,
        "adaptive_decay": 0.9,
        "stop": list(params.stop),
        "n_keep": 0,
        "n_discard": 0,
        "ignore_eos": params.ignore_eos,
        "logit_bias": [
            {"bias": None if amount == _NEVER else amount, "token": token}
            for token, amount in (params.logit_bias or {}).items()
        ],
        "n_probs": params.logprobs or 0,
        "min_keep": 0,
        "grammar": (shape.grammar if shape is not None else None) or "",
        "samplers": list(SAMPLERS),
        "post_sampling_probs": False,
        "lora": [],
    }


def _chosen(body: LlamaCppOptions, defaults: Mapping[str, Any], max_model_len: int) -> dict[str, Any]:
    """The settings of the samplers, with those that are not to be used turned off."""
    values = {**_DEFAULTS, **NO_PENALTIES}
    values |= {name: value for name, value in defaults.items() if name in values}
    given = {name: getattr(body, name) for name in (*_OFF, "presence_penalty", "frequency_penalty")}
    given["repetition_penalty"] = body.repeat_penalty
    values |= {name: value for name, value in given.items() if value is not None}
    if body.samplers is not None:
        named = _samplers(body.samplers)
        # The sampler for filling in keeps what is clearly likeliest, or ends.
        off = _OFF | {"temperature": 0.0 if "infill" in named else 1.0}
        values |= {name: value for name, value in off.items() if name not in named}
        if "penalties" not in named:
            values |= NO_PENALTIES
    window = _PENALTY_WINDOW if body.repeat_last_n is None else body.repeat_last_n
    if window == 0:
        values |= NO_PENALTIES
    elif any(values[name] != neutral for name, neutral in NO_PENALTIES.items()):
        values["penalty_window"] = max_model_len if window == -1 else window
    values["top_k"] = max(0, values["top_k"])
    return values


def _samplers(names: list[str] | str) -> set[str]:
    """``names``, or text with a letter for each."""
    found = set()
    for i, given in enumerate(names):
        name = _LETTERS.get(given, given).replace("-", "_")
        name = _ALIASES.get(name, name)
        if name not in SAMPLERS and name not in _ELSEWHERE:
            raise bad(
                "$.samplers" if isinstance(names, str) else f"$.samplers[{i}]",
                given,
                f"must be one of {', '.join((*SAMPLERS, *sorted(_ELSEWHERE)))}",
            )
        found.add(name)
    return found


def _bias(value: Any, tokenizer: "Tokenizer") -> dict[int, float]:
    """From pairs or an object, of ids or of texts, all of whose tokens are meant."""
    if value is None:
        return {}
    if not isinstance(value, dict | list):
        raise bad("$.logit_bias", value, "must be a list of pairs, or an object")
    pairs = (
        [(f"$.logit_bias.{key:.40}", key, amount) for key, amount in value.items()]
        if isinstance(value, dict)
        else [(f"$.logit_bias[{i}]", *_pair(pair, f"$.logit_bias[{i}]")) for i, pair in enumerate(value)]
    )
    bias: dict[int, float] = {}
    for path, token, given in pairs:
        amount = _NEVER if given is False else given
        if isinstance(amount, bool) or not isinstance(amount, int | float):
            raise bad(path, amount, "must be a number, or false")
        for token_id in _tokens(token, path, tokenizer, is_key=isinstance(value, dict)):
            bias[token_id] = float(amount)
    return bias


def _pair(value: Any, path: str) -> tuple[Any, Any]:
    if not isinstance(value, list) or len(value) != 2:
        raise bad(path, value, "must be a pair of a token and its bias")
    return value[0], value[1]


def _tokens(token: Any, path: str, tokenizer: "Tokenizer", *, is_key: bool) -> list[int]:
    if type(token) is int and 0 <= token < 2**31:
        return [token]
    if not isinstance(token, str) or not token:
        raise bad(path, token, "must name a token by its id or by text")
    if is_key and token.isascii() and token.isdigit() and len(token) < 10:
        return [int(token)]
    return tokenizer.encode(token, False)


def _shape(body: LlamaCppOptions) -> StructuredOutputs | None:
    if body.grammar and body.json_schema is not None:
        raise InvalidRequest("grammar and json_schema are both given: leave one of them out.", param="$.grammar")
    if body.grammar:
        return StructuredOutputs(grammar=body.grammar)
    return None if body.json_schema is None else StructuredOutputs(json=body.json_schema)


def _prompt(value: Any, path: str) -> Prompt:
    if isinstance(value, dict):
        if value.get("multimodal_data"):
            raise Unsupported(
                f"{path}.multimodal_data is not accepted: the model reads text only. Leave it out.",
                param=f"{path}.multimodal_data",
            )
        value, path = value.get("prompt_string"), f"{path}.prompt_string"
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise bad(path, value, "must be text, or a list of texts and token ids")
    for i, piece in enumerate(value):
        is_id = type(piece) is int and 0 <= piece < 2**31
        if not is_id and not isinstance(piece, str):
            raise bad(f"{path}[{i}]", piece, "must be text or a token id, an integer from 0 up")
    return value
