"""``use_beam_search``: what a request asks of the search, and what cannot be asked together with it.

Beam search finds what is likeliest and samples nothing, so a setting that changes how tokens are drawn, or the
probabilities themselves, has no place in it: it is refused by name unless it is at its neutral value.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from quire.core.errors import Unsupported
from quire.core.sampling_params import BeamSearchParams, SamplingParams
from quire.server.schema.generation import GenerationRequest

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "stream": (False,),
    "temperature": (0, 1),
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "repeat_penalty": (1,),
    "logit_bias": ({},),
    "allowed_token_ids": (),
    "bad_words": ([],),
    "prompt_logprobs": (),
    "logprob_token_ids": ([],),
    "thinking_token_budget": (-1,),
    "repetition_detection": (),
}


class Beams(msgspec.Struct, frozen=True):
    """How wide to search, and how much longer continuations are favoured."""

    width: int
    length_penalty: float


def beams_of(body: GenerationRequest) -> Beams | None:
    """What is asked of beam search, or None. Raises Unsupported for what cannot be combined with it."""
    if not body.use_beam_search:
        return None
    for name, neutral in _NEUTRAL.items():
        if name in body.model_fields_set and (value := getattr(body, name)) not in neutral:
            raise Unsupported(
                f"{name} is {value!r:.80}: it cannot be combined with use_beam_search, which finds the likeliest "
                "continuations and samples nothing. Leave one of them out.",
                param=f"$.{name}",
            )
    return Beams(max(body.n, body.best_of or 1), body.length_penalty)


def takes_no_shape() -> Unsupported:
    """To be raised: beams are not masked by a grammar."""
    return Unsupported(
        "use_beam_search cannot be combined with a prescribed shape of the answer (response_format, "
        "structured_outputs, a tool that must be called): leave one of them out.",
        param="$.use_beam_search",
    )


def search_params(params: SamplingParams, beams: Beams) -> BeamSearchParams:
    """The search's settings, out of those that every request has. Raises Unsupported for a prescribed shape."""
    if params.structured_outputs is not None:
        raise takes_no_shape()
    shared = set(BeamSearchParams.__struct_fields__) & set(SamplingParams.__struct_fields__) - {"temperature"}
    return BeamSearchParams(
        beam_width=beams.width,
        length_penalty=beams.length_penalty,
        **{name: getattr(params, name) for name in shared},
    )
