"""DeviceSampling in torch, for tensors that this process may read: the reference, and what CPUs have in tests.

On a device with a queue every call would wait for it.
"""

import numpy as np
import torch
from torch import Tensor

from quire.decoding.penalties import penalise
from quire.decoding.random import uniforms
from quire.kernels.ops.device_sampling import DeviceDraws, DeviceScores, Real, SlotTables, Whole
from quire.kernels.ops.sampling import Draws, TorchSampling


class TorchDeviceSampling:
    """See DeviceSampling."""

    def __init__(self) -> None:
        self._host = TorchSampling()

    def wishes(
        self, tables: SlotTables, slots: Tensor, positions: Tensor, *, has_random: bool, has_cut: bool
    ) -> DeviceDraws:
        """See DeviceSampling.wishes."""
        reals, wholes = tables.reals[slots], tables.wholes[slots]
        numbers = uniforms(wholes[:, Whole.SEED].cpu().numpy().view(np.uint64), positions.cpu().numpy())
        return DeviceDraws(
            temperature=reals[:, Real.TEMPERATURE].float(),
            log_min_p=reals[:, Real.LOG_MIN_P].float(),
            top_k=wholes[:, Whole.TOP_K],
            top_p=reals[:, Real.TOP_P],
            uniforms=torch.from_numpy(numbers).to(slots.device),
            has_random=has_random,
            has_cut=has_cut,
        )

    def draw(self, logits: Tensor, draws: DeviceDraws) -> Tensor:
        """See DeviceSampling.draw."""
        columns = (draws.temperature, draws.log_min_p, draws.top_k, draws.top_p, draws.uniforms)
        tokens = self._host.draw_tokens(logits, Draws(*(column.cpu().numpy() for column in columns)))
        return torch.from_numpy(tokens).to(logits.device)

    def score(self, logits: Tensor, rows: Tensor, tokens: Tensor, k: int) -> DeviceScores:
        """See DeviceSampling.score."""
        scores = self._host.score_tokens(logits, rows.cpu().numpy(), tokens.clamp_min(0)[:, None].cpu().numpy(), k)
        found = (scores.token_ids, scores.logprobs, scores.ranks[:, 0])
        return DeviceScores(*(torch.from_numpy(array).to(logits.device) for array in found))

    def allow(self, logits: Tensor, rows: Tensor, masks: Tensor) -> None:
        """See DeviceSampling.allow."""
        self._host.keep_allowed(logits, rows.cpu().numpy(), masks.cpu().numpy())

    def penalise(self, logits: Tensor, slots: Tensor, tables: SlotTables, counts: Tensor, in_prompt: Tensor) -> None:
        """See DeviceSampling.penalise."""
        places = tables.wholes[slots, Whole.PLACE]
        (rows,) = torch.where(places >= 0)
        strengths = tables.reals[slots[rows]][:, [Real.REPETITION, Real.FREQUENCY, Real.PRESENCE]].float()
        lowered = logits[rows]
        penalise(lowered, counts[places[rows]], in_prompt[places[rows]], strengths)
        logits[rows] = lowered

    def count(self, tokens: Tensor, slots: Tensor, tables: SlotTables, counts: Tensor) -> None:
        """See DeviceSampling.count."""
        places = tables.wholes[slots, Whole.PLACE]
        (rows,) = torch.where((places >= 0) & (tokens >= 0))
        counts[places[rows], tokens[rows].long()] += 1
