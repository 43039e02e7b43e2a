"""Sampling on the device beside torch's: tokens drawn with all that cuts a distribution, scores, masks."""

from typing import Any

import numpy as np
import torch
from benchmarks.gpu.calls import F32, Maker
from benchmarks.gpu.check_ops import StandIn
from benchmarks.gpu.journal import Journal
from torch import Tensor

from quire.kernels.ops.sampling import Draws, Sampling, TorchSampling

MOST_OTHERS = 0.01
"""Share of drawn tokens that may differ: where a uniform number falls on a border that exp rounds otherwise."""
MOST_OFF = 2e-5
"""Of log probabilities."""


def check(device: torch.device, stand_in: StandIn, journal: Journal) -> None:
    """Raises AssertionError at the end if a case failed."""
    sampling = TorchSampling() if stand_in == "references" else _on_device()
    wrong = []
    for model in ("llama", "qwen", "gemma"):
        for num_rows in (1, 64, 256):
            maker = Maker(f"sampling {model} {num_rows}", device, is_tiny=stand_in != "none")
            for name, found in _compare(sampling, maker, model, maker.size(num_rows, min(num_rows, 6))).items():
                journal.row("sampling", model=model, rows=num_rows, what=name, **found)
                wrong += [] if found["ok"] else [f"{model} {num_rows} {name}"]
    assert not wrong, ", ".join(wrong)


def _on_device() -> Sampling:
    from quire.kernels.triton.sampling import TritonSampling

    sampling: Sampling = TritonSampling()
    return sampling


def _compare(sampling: Sampling, m: Maker, model: str, num_rows: int) -> dict[str, dict[str, Any]]:
    size, reference = m.models[model].vocab, TorchSampling()
    logits = m.normal(num_rows, size, std=3.0, dtype=F32)
    random = np.random.default_rng(num_rows)
    found = {}
    for name in ("whole", "top_k", "top_p", "min_p", "mixed"):
        draws = _draws(name, num_rows, size, random)
        given = _tokens(sampling, logits, draws)
        others = int((given != _tokens(reference, logits, draws)).sum())
        is_same = bool(_tokens(sampling, logits[-1:], _last(draws))[0] == given[-1])
        is_right = others <= round(MOST_OTHERS * num_rows) and is_same
        found[name] = {"ok": is_right, "others": others, "invariant": is_same}
    rows = np.arange(num_rows)
    tokens = random.integers(0, size, (num_rows, 2))
    one, other = (each.score_tokens(logits, rows, tokens, 8) for each in (sampling, reference))
    off = float(np.abs(one.logprobs - other.logprobs).max())
    is_same = bool((one.token_ids == other.token_ids).mean() >= 1 - MOST_OTHERS and (one.ranks == other.ranks).all())
    found["scores"] = {"ok": off <= MOST_OFF and is_same, "off": off}
    masks = random.integers(-(2**31), 2**31, (num_rows, -(-size // 32)), dtype=np.int64).astype(np.int32)
    kept = [logits.clone() for _ in range(2)]
    for each, mine in zip((sampling, reference), kept, strict=True):
        each.keep_allowed(mine, rows, masks)
    found["masks"] = {"ok": torch.equal(*kept)}
    return found


def _draws(name: str, num_rows: int, size: int, random: np.random.Generator) -> Draws:
    def on(*names: str) -> np.ndarray:
        """In which rows something is asked for: all, or every other one of a mixture."""
        return np.full(num_rows, name in names) | ((np.arange(num_rows) % 2 == 0) & (name == "mixed"))

    return Draws(
        temperature=np.where(on("mixed") & (np.arange(num_rows) % 4 == 0), 0, 0.8).astype(np.float32),
        log_min_p=np.where(on("min_p"), np.log(0.05), -np.inf).astype(np.float32),
        top_k=np.where(on("top_k"), min(50, size), size).astype(np.int64),
        top_p=np.where(on("top_p"), 0.9, 1.0),
        uniforms=random.random(num_rows),
    )


def _last(draws: Draws) -> Draws:
    return Draws(*(getattr(draws, name)[-1:] for name in Draws.__slots__))


def _tokens(sampling: Sampling, logits: Tensor, draws: Draws) -> np.ndarray:
    return sampling.draw_tokens(logits.clone(), draws)
