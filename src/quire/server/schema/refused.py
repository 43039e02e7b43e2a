"""Fields that would change the answer and that this server cannot honour: named in a 400, never ignored.

A hint (a field that only asks for speed or bookkeeping) may be ignored; these may not. Each has the test that tells a
harmless value, such as ``tools: []``, from one that matters.
"""

from collections.abc import Callable, Mapping
from typing import Any

from quire.core.errors import Unsupported

Refusals = Mapping[str, Callable[[Any], bool]]
"""Field -> whether a value of it is harmless."""


def _never(value: object) -> bool:
    return False


def _empty(value: object) -> bool:
    return value in ([], {}, "", False)


def _blank(value: object) -> bool:
    return all(item is None or _empty(item) for item in value) if isinstance(value, list) else _empty(value)


def _one_of(*harmless: object) -> Callable[[Any], bool]:
    return lambda value: value in harmless


def _has_no_prewarm(value: object) -> bool:
    return isinstance(value, dict) and not value.get("prewarm")


def _not_positive(value: object) -> bool:
    return isinstance(value, int | float) and value <= 0


def _negative(value: object) -> bool:
    return isinstance(value, int | float) and value < 0


OTHER_SAMPLERS: Refusals = {
    **dict.fromkeys(("dynatemp_range", "xtc_probability", "dry_multiplier", "mirostat", "min_keep"), _one_of(0)),
    **dict.fromkeys(("typical_p", "tfs_z"), _one_of(1)),
    "top_n_sigma": _not_positive,
    "adaptive_target": _negative,
}
"""By llama.cpp's names; harmless is what turns them off."""

REFUSED_ANYWHERE: Refusals = {
    # other ways to choose tokens
    **OTHER_SAMPLERS,
    "logits_processors": _empty,
    "watermarking": _one_of(False),
    "stop_regex": _empty,
    "vllm_xargs": _empty,
    # other inputs and outputs
    "prompt_embeds": _empty,
    "lora": _blank,
    "lora_path": _blank,
    "kv_transfer_params": _empty,
    "ec_transfer_params": _empty,
    "return_token_offsets": _one_of(False),
    "return_weight_versions": _one_of(False),
    # conversations held by the server
    "thread": _never,
    "previous_response_id": _never,
    "conversation": _never,
}

REFUSED_IN_CHAT: Refusals = {
    **REFUSED_ANYWHERE,
    "functions": _empty,
    "function_call": _one_of("none", "auto"),
    "audio": _never,
    "modalities": _one_of([], ["text"]),
    "web_search_options": _never,
}

REFUSED_IN_GENERATE: Refusals = {
    **dict.fromkeys(("image_data", "video_data", "audio_data", "input_embeds"), _blank),
    **dict.fromkeys(("lora_path", "session_params", "session_id", "custom_logit_processor"), _blank),
    **dict.fromkeys(("return_hidden_states", "return_routed_experts"), _blank),
    **dict.fromkeys(("bootstrap_host", "bootstrap_port", "bootstrap_room"), _blank),
}
"""By SGLang, which takes lists of all of these, one entry for each prompt."""

REFUSED_IN_SGLANG_SAMPLING: Refusals = {
    "stop_regex": _empty,
    "custom_params": _empty,
    "beam_width": _one_of(1),
}

REFUSED_IN_COMPLETIONS: Refusals = {**REFUSED_ANYWHERE, "thinking_token_budget": _one_of(-1)}


def _edits_nothing(value: object) -> bool:
    """``context_management`` that keeps the whole conversation, as some clients always say."""
    edits = value.get("edits") if isinstance(value, dict) else value
    return not edits or (isinstance(edits, list) and all(_keeps_all(edit) for edit in edits))


def _keeps_all(edit: object) -> bool:
    if not isinstance(edit, dict):
        return False
    return str(edit.get("type")).startswith("clear_thinking_") and edit.get("keep") == "all"


_OTHER_SHAPES = (
    "response_format",
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_json_object"),
    *("regex", "ebnf", "json_schema", "grammar"),
)

_REFUSED_ELSEWHERE: Refusals = {
    **{name: is_harmless for name, is_harmless in REFUSED_ANYWHERE.items() if name != "thread"},
    **dict.fromkeys(("structured_outputs", *_OTHER_SHAPES), _empty),
    "logprob_token_ids": _empty,
    "n": _one_of(1),
}

REFUSED_IN_MESSAGES: Refusals = {
    **_REFUSED_ELSEWHERE,
    "container": _empty,
    "context_management": _edits_nothing,
    "mcp_servers": _empty,
}
"""Anthropic's ``thread`` is refused by its route, with the code that clients wait for."""

REFUSED_IN_RESPONSES: Refusals = {
    **{name: is_harmless for name, is_harmless in REFUSED_ANYWHERE.items() if name != "previous_response_id"},
    **dict.fromkeys(_OTHER_SHAPES, _empty),
    "functions": _empty,
    "function_call": _one_of("none", "auto"),
    "audio": _never,
    "modalities": _one_of([], ["text"]),
    "prompt": _never,
    "context_management": _empty,
    "moderation": _never,
    "personality": _never,
    "prompt_cache_options": _has_no_prewarm,
    "enable_response_messages": _one_of(False),
    "previous_input_messages": _empty,
    # chat's names
    "messages": _never,
    "max_tokens": _never,
    "max_completion_tokens": _never,
    "use_beam_search": _one_of(False),
    "n": _one_of(1),
    "best_of": _one_of(1),
    "logprob_token_ids": _empty,
    "logprobs": _one_of(False),
    "prompt_logprobs": _never,
    "reasoning_effort": _never,
    "suffix": _empty,
    "echo": _one_of(False),
    "return_token_ids": _one_of(False),
}

REFUSED_BY_OLLAMA: Refusals = {
    **_REFUSED_ELSEWHERE,
    "thread": _never,
    "images": _empty,
    "template": _empty,
    "_debug_render_only": _one_of(False),
}

REFUSED_OPTIONS: Refusals = {
    "mirostat": _one_of(0),
    "tfs_z": _one_of(1),
    "typical_p": _one_of(1),
    "penalize_newline": _one_of(True),
    **dict.fromkeys(("logits_all", "vocab_only", "embedding_only"), _one_of(False)),
}
"""Of Ollama's options. Those that say how a model is loaded, or which thread computes what, are hints."""

_WHY = {
    "messages": "the Responses API calls it input",
    "max_tokens": "the Responses API calls it max_output_tokens",
    "max_completion_tokens": "the Responses API calls it max_output_tokens",
    "reasoning_effort": "the Responses API calls it reasoning.effort",
    "logprobs": "the Responses API asks for them with include and top_logprobs",
    "conversation": "this server keeps no conversations, but responses: continue one with previous_response_id",
    "prompt": "this server keeps no prompt templates: send input and instructions",
    "functions": "it was replaced by tools in OpenAI's API",
    "function_call": "it was replaced by tool_choice in OpenAI's API",
    "container": "this server runs no code for the model",
    "context_management": "this server leaves conversations as they are",
    "mcp_servers": "this server calls no tools itself",
    "images": "the model reads text only",
    "template": "a prompt is made by the model's own chat template. Send it ready-made with raw",
}


def refuse(data: Mapping[str, Any], refusals: Refusals, root: str = "$") -> None:
    """Raise Unsupported for the first field of ``data``, whose own path is ``root``, that may not be ignored."""
    for name in data.keys() & refusals.keys():
        if data[name] is not None and not refusals[name](data[name]):
            why = _WHY.get(name, "this server does not support it and ignoring it would change the answer")
            shown = name if root == "$" else f"{root}.{name}"
            raise Unsupported(f"{shown} is not accepted: {why}. Leave the field out.", param=f"{root}.{name}")
