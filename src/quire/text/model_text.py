"""All that a client's side needs of a model: its words, not its weights."""

from pathlib import Path
from typing import Any

import msgspec

from quire.checkpoint.checkpoint import Checkpoint, open_checkpoint
from quire.checkpoint.facts import ModelFacts, facts_of
from quire.checkpoint.overrides import Overrides
from quire.checkpoint.pypi import recommended_sampling
from quire.checkpoint.resolve import resolve
from quire.core.config import ModelConfig
from quire.core.errors import ConfigError, CorruptCheckpoint, InvalidRequest
from quire.core.sampling_params import SamplingParams
from quire.text.chat import ChatTemplate, load_template
from quire.text.dialects.registry import Dialects, choose
from quire.text.tokenizer import Tokenizer

_SAMPLING_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty")


class ModelText(msgspec.Struct, frozen=True, kw_only=True):
    """Tokenizer, chat template, sampling defaults, end-of-sequence ids and dialects of one model, and what it is."""

    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    default_params: dict[str, Any]
    eos_token_ids: tuple[int, ...]
    dialects: Dialects
    """How its replies are read."""
    facts: ModelFacts

    @classmethod
    def load(cls, path: Path, config: ModelConfig) -> "ModelText":
        """Read what is needed from the checkpoint at ``path``; ``config`` may name another tokenizer or template."""
        checkpoint = open_checkpoint(path, Overrides.of(config))
        words = open_checkpoint(resolve(config.tokenizer)) if config.tokenizer else checkpoint
        tokenizer = Tokenizer.from_checkpoint(words)
        source = load_template(config.chat_template) if config.chat_template else words.chat_template
        return cls(
            tokenizer=tokenizer,
            chat_template=_template(source, tokenizer) if source else None,
            default_params=_defaults(checkpoint, config),
            eos_token_ids=checkpoint.eos_token_ids,
            dialects=choose(config.tool_call_parser, config.reasoning_parser, source),
            facts=facts_of(checkpoint, has_weights=config.load_format != "dummy"),
        )


def _template(source: str, tokenizer: Tokenizer) -> ChatTemplate:
    def text(token: int | None) -> str:
        return tokenizer.id_to_token(token) or "" if token is not None else ""

    return ChatTemplate(source, bos_token=text(tokenizer.bos_token_id), eos_token=text(tokenizer.eos_token_id))


def _defaults(checkpoint: Checkpoint, config: ModelConfig) -> dict[str, Any]:
    said = config.override_generation_config
    if unknown := said.keys() - {*_SAMPLING_DEFAULTS, "do_sample", "eos_token_id"}:
        raise ConfigError(
            f"--override-generation-config sets {', '.join(sorted(unknown))}, which has no effect here: it takes "
            f"{', '.join(_SAMPLING_DEFAULTS)}, do_sample and eos_token_id."
        )
    found = recommended_sampling(config.model) | checkpoint.generation_config
    found = found if config.generation_config == "auto" else said
    defaults = {name: found[name] for name in _SAMPLING_DEFAULTS if found.get(name) is not None}
    if found.get("do_sample") is False:
        defaults = {name: value for name, value in defaults.items() if name == "repetition_penalty"}
    try:
        SamplingParams(**defaults)
    except InvalidRequest as error:
        raise CorruptCheckpoint(
            f"{checkpoint.path} recommends sampling that cannot be done: {error.message} Correct its "
            "generation_config.json or --override-generation-config, or leave it out with --generation-config none."
        ) from None
    return defaults
