"""What Ollama's clients are told of the models served here.

They know models as ``name:tag``, and a name without a tag as ``name:latest``: both are the model served as ``name``.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from quire.core.errors import ModelNotFound, Unsupported
from quire.server.answers.timestamps import rfc3339
from quire.server.schema.ollama import (
    OllamaDetails,
    OllamaModel,
    OllamaModels,
    OllamaProcess,
    OllamaProcesses,
    OllamaShown,
)
from quire.server.service import Service
from quire.text.fim import FillInMiddle

_LATEST = ":latest"
_NEVER = "2318-01-01T00:00:00Z"
"""When a model is let go of that stays: far in the future, as Ollama says it."""

_DIMENSIONS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "vocab_size": "vocab_size",
}
"""GGUF's names of what is in ``ModelFacts.dimensions``."""

_PARAMETERS = {"repetition_penalty": "repeat_penalty"}


def check_name(service: Service, name: str) -> None:
    """Raise ModelNotFound for the name of a model that is not served here."""
    asked = name.casefold().removesuffix(_LATEST)
    if asked not in (served.casefold().removesuffix(_LATEST) for served in service.served_names):
        served = " and ".join(repr(tagged(served)) for served in service.served_names)
        raise ModelNotFound(f"model {name[:200]!r} not found: this server has {served}.", param="$.model")


def tagged(name: str) -> str:
    """With a tag, as Ollama lists its models."""
    return name if ":" in name.rpartition("/")[2] else name + _LATEST


def models(service: Service) -> OllamaModels:
    """All that are served: one, under each of its names."""
    facts, modified_at, details = service.llm.facts, rfc3339(service.created), _details(service)
    return OllamaModels(
        [
            OllamaModel(
                name=name,
                model=name,
                modified_at=modified_at,
                size=facts.num_bytes,
                digest=_digest(service),
                details=details,
            )
            for name in map(tagged, service.served_names)
        ]
    )


def processes(service: Service) -> OllamaProcesses:
    """The one that is loaded, and stays."""
    name, facts = tagged(service.served_names[0]), service.llm.facts
    loaded = OllamaProcess(
        name=name,
        model=name,
        size=facts.num_bytes,
        digest=_digest(service),
        details=_details(service),
        expires_at=_NEVER,
        size_vram=0,
        context_length=service.llm.info.max_model_len,
    )
    return OllamaProcesses([loaded])


def shown(service: Service) -> OllamaShown:
    """All about the model."""
    llm = service.llm
    template = llm.chat_template.source if llm.chat_template is not None else ""
    defaults = {_PARAMETERS.get(name, name): value for name, value in llm.default_params.items()}
    return OllamaShown(
        modelfile=f"# Served by Quire\nFROM {llm.config.model.model}\n",
        parameters="\n".join(f"{name:<30} {value}" for name, value in defaults.items()),
        template=template,
        details=_details(service),
        model_info=_info(service),
        capabilities=_capabilities(service),
        modified_at=rfc3339(service.created),
    )


def _info(service: Service) -> Mapping[str, Any]:
    facts = service.llm.facts
    found: dict[str, Any] = {
        "general.architecture": facts.family,
        "general.basename": service.served_names[0],
        "general.parameter_count": facts.num_parameters,
        f"{facts.family}.context_length": service.llm.info.max_model_len,
    }
    for ours, theirs in _DIMENSIONS.items():
        if ours in facts.dimensions:
            found[f"{facts.family}.{theirs}"] = facts.dimensions[ours]
    return found


def _capabilities(service: Service) -> list[str]:
    has_template = service.llm.chat_template is not None
    found = {
        "completion": True,
        "tools": has_template and service.dialects.tools is not None,
        "thinking": has_template and service.dialects.reasoning is not None,
        "insert": _can_insert(service),
    }
    return [name for name, is_there in found.items() if is_there]


def _can_insert(service: Service) -> bool:
    try:
        FillInMiddle.of(service.llm.tokenizer)
    except Unsupported:
        return False
    return True


def _details(service: Service) -> OllamaDetails:
    facts = service.llm.facts
    return OllamaDetails(
        format=facts.format,
        family=facts.family,
        families=[facts.family],
        parameter_size=_human(facts.num_parameters),
        quantization_level=facts.quantization,
    )


def _human(number: int) -> str:
    for size, unit, digits in ((1e9, "B", 1), (1e6, "M", 2), (1e3, "K", 0)):
        if number >= size:
            return f"{number / size:.{digits}f}{unit}"
    return str(number)


def _digest(service: Service) -> str:
    facts = service.llm.facts
    identity = f"{service.llm.config.model.model} {facts.num_bytes} {facts.quantization}"
    return hashlib.sha256(identity.encode()).hexdigest()
