"""Which family reads which architecture. A new family is one file and one line here."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from quire.core.errors import UnsupportedModel
from quire.model.families.decoder import CausalLM
from quire.model.families.gemma3 import gemma3, gemma3_text
from quire.model.families.llama import llama, mistral
from quire.model.families.qwen2 import qwen2
from quire.model.families.qwen3 import qwen3
from quire.model.families.qwen3_moe import qwen3_moe
from quire.model.fields import Fields
from quire.model.weights.cursor import Cursor

Family = Callable[[Fields, Cursor, int | None], CausalLM]

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "LlamaForCausalLM": llama,
        "MistralForCausalLM": mistral,
        "Qwen2ForCausalLM": qwen2,
        "Qwen3ForCausalLM": qwen3,
        "Qwen3MoeForCausalLM": qwen3_moe,
        "Gemma3ForCausalLM": gemma3_text,
        "Gemma3ForConditionalGeneration": gemma3,
    }
)
"""By the name in a config's ``architectures``."""


def build(config: Mapping[str, Any], cursor: Cursor, *, max_model_len: int | None = None) -> CausalLM:
    """Make the model that a Hugging Face config describes, its weights read from ``cursor``, the checkpoint's root.

    ``max_model_len`` is the longest sequence it will be used for, where positions stretch with that (dynamic rope).
    Raises UnsupportedModel; CorruptCheckpoint, naming the config's key or the tensor.
    """
    fields = Fields(config)
    names = config.get("architectures")
    if not isinstance(names, list) or not names:
        raise fields.wrong("architectures", f"a list with one of {', '.join(FAMILIES)}")
    family = next((FAMILIES[name] for name in names if isinstance(name, str) and name in FAMILIES), None)
    if family is None:
        raise UnsupportedModel(
            f"The model's architecture is {names[0]!r}; implemented are {', '.join(FAMILIES)}.",
            param="$.architectures",
        )
    return family(fields, cursor, max_model_len)
