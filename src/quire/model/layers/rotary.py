"""Rotary embedding: how fast each pair of features turns, under the ways of stretching it to longer contexts.

Frequencies are made once, at load, so that an angle depends on a token's position and nothing else. That is also the
answer to dynamic scaling, whose frequencies grow with the sequence: they are those of the longest sequence allowed.

Sources: Su et al. 2021 (rotary); Chen et al. 2023 (linear); bloc97 2023 (NTK-aware, dynamic); Peng et al. 2023 (yarn);
Llama 3.1's release (llama3). Names of types and keys are those of Hugging Face configs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quire.core.errors import UnsupportedModel
from quire.kernels.ops.rotary import angles
from quire.model.fields import Fields

_MOST_POSITIONS = 2**31 - 1

Rotation = tuple[Tensor, Tensor]
"""cos, sin [T, D/2] float32 of a step's positions."""


@dataclass(frozen=True)
class RopeConfig:
    """What a model's config says of one kind of rotation."""

    theta: float
    max_position: int
    """Positions that the config counts."""
    scaling: Fields
    """The config's ``rope_parameters`` or ``rope_scaling``; empty for none."""

    @property
    def kind(self) -> str:
        """default, linear, dynamic, llama3, yarn, or what is not implemented."""
        return self.scaling.text("rope_type", None) or self.scaling.text("type", "default")

    @property
    def trained_positions(self) -> int:
        """Those before the rotation was stretched."""
        return self.scaling.integer("original_max_position_embeddings", self.max_position)

    @property
    def context(self) -> int:
        """Positions that the frequencies are made for. Configs with yarn may count those alone that were trained."""
        if self.kind != "yarn":
            return self.max_position
        return max(self.max_position, _stretched(self.trained_positions, self.scaling.number("factor", 1.0)))

    @property
    def longest_context(self) -> int:
        """The same, where that depends on the longest sequence allowed: dynamic scaling stretches when asked to."""
        if self.kind != "dynamic":
            return self.context
        return _stretched(self.max_position, self.scaling.number("factor"))


def _stretched(positions: int, factor: float) -> int:
    return int(min(positions * factor, _MOST_POSITIONS))


def read_rope(config: Fields, *, default_theta: float = 10_000.0) -> RopeConfig:
    """The rotation of a model that has one for all layers. Raises UnsupportedModel for several."""
    rope = stated_rope(config, default_theta=default_theta)
    for name, value in rope.scaling.values.items():
        if isinstance(value, Mapping):
            raise UnsupportedModel(
                f"The model's config.json has rope parameters of their own for {name!r:.80}; its architecture is "
                "implemented with one rotation for all layers."
            )
    return rope


def stated_rope(config: Fields, *, default_theta: float = 10_000.0) -> RopeConfig:
    """What a config says for all layers, in the newer spelling or the older.

    Newer: everything in ``rope_parameters``. Older: ``rope_theta`` and ``partial_rotary_factor``, and ``rope_scaling``
    if scaled, which wins where both are there.
    """
    parameters = config.inner("rope_parameters") or Fields({})
    scaling = config.inner("rope_scaling") or parameters
    scaling = scaling.over({"partial_rotary_factor": config.number("partial_rotary_factor", 1.0)})
    theta = scaling.number("rope_theta", None) or parameters.number("rope_theta", None)
    theta = theta or config.number("rope_theta", default_theta)
    return RopeConfig(theta, config.integer("max_position_embeddings", 2048), scaling)


class Rotary:
    """The angles of one kind of rotation. Shared by all layers that turn alike."""

    def __init__(
        self, config: RopeConfig, head_dim: int, device: torch.device, *, max_model_len: int | None = None
    ) -> None:
        inv_freq, self._factor = frequencies(config, head_dim, max_model_len)
        self.inv_freq = inv_freq.to(device)

    def __call__(self, positions: Tensor) -> Rotation:
        """[T] int64 -> cos and sin of each position's angles."""
        return angles(positions, self.inv_freq, self._factor)


def frequencies(config: RopeConfig, head_dim: int, max_model_len: int | None = None) -> tuple[Tensor, float]:
    """[D/2] float32 radians by position, and the factor of cos and sin. Raises UnsupportedModel, CorruptCheckpoint.

    ``max_model_len`` matters to dynamic scaling alone; None: what the model was made for, which leaves it unscaled.
    """
    scaling = config.scaling
    if scaling.number("partial_rotary_factor", 1.0) != 1:
        raise UnsupportedModel("The model turns only a part of each head (partial_rotary_factor); not implemented.")
    if head_dim % 2:
        raise UnsupportedModel(f"The model's heads have an odd number of features, {head_dim}, and cannot be turned.")
    if config.kind in ("dynamic", "yarn") and (head_dim < 4 or config.theta <= 1):
        raise UnsupportedModel(
            f"The model's rope_type is {config.kind}, which heads of {head_dim} features that turn by powers of "
            f"rope_theta {config.theta} do not have."
        )
    match config.kind:
        case "default":
            return _plain(config.theta, head_dim), 1.0
        case "linear":
            return _plain(config.theta, head_dim) / scaling.number("factor"), 1.0
        case "dynamic":
            stretch = max(1.0, (max_model_len or 0) / config.max_position)
            growth = scaling.number("factor") * (stretch - 1) + 1
            return _plain(config.theta * growth ** (head_dim / (head_dim - 2)), head_dim), 1.0
        case "llama3":
            return _llama3(config, head_dim), 1.0
        case "yarn":
            return _yarn(config, head_dim)
    raise UnsupportedModel(
        f"The model's rope_type is {config.kind!r}; implemented are default, linear, dynamic, llama3 and yarn.",
        param="$.rope_scaling.rope_type",
    )


def _plain(theta: float, head_dim: int) -> Tensor:
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    inv_freq: Tensor = 1.0 / torch.pow(theta, exponents)
    return inv_freq


def _llama3(config: RopeConfig, head_dim: int) -> Tensor:
    """Slow frequencies divided by the factor, fast ones kept, those between blended."""
    scaling = config.scaling
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    if high <= low:
        raise scaling.wrong("high_freq_factor", f"greater than low_freq_factor, {low}")
    plain = _plain(config.theta, head_dim)
    turns = config.trained_positions * plain / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return plain * (kept + (1 - kept) / scaling.number("factor"))


def _yarn(config: RopeConfig, head_dim: int) -> tuple[Tensor, float]:
    """Blended by the number of turns within the trained context; cos and sin sharpened by a factor."""
    scaling = config.scaling
    trained = config.trained_positions
    factor = scaling.number("factor", None) or config.max_position / trained

    def feature(turns: float) -> float:
        """The feature pair, as a real number, that turns so often within the trained context."""
        waves = math.log(trained) - math.log(turns) - math.log(2 * math.pi)
        return head_dim * waves / (2 * math.log(config.theta))

    fast, slow = feature(scaling.number("beta_fast", 32.0)), feature(scaling.number("beta_slow", 1.0))
    if scaling.flag("truncate", True):
        fast, slow = math.floor(fast), math.ceil(slow)
    first, last = max(fast, 0), min(slow, head_dim - 1)
    ramp = (torch.arange(head_dim // 2, dtype=torch.float32) - first) / ((last - first) or 0.001)
    stretched = ramp.clamp(0, 1)
    plain = _plain(config.theta, head_dim)
    return plain * (1 - stretched) + plain / factor * stretched, _yarn_sharpness(scaling, factor)


def _yarn_sharpness(scaling: Fields, factor: float) -> float:
    stated = scaling.number("attention_factor", None)
    if stated is not None:
        return stated

    def of(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    # Zero means unset, here as where these come from.
    mscale, everywhere = scaling.values.get("mscale"), scaling.values.get("mscale_all_dim")
    if mscale and everywhere:
        return of(scaling.number("mscale")) / of(scaling.number("mscale_all_dim"))
    return of(1.0)
