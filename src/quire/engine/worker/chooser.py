"""Who chooses a sequence's tokens: the Sampler on the host, or, on a device beside it, the DeviceSampler.

A sequence belongs to one of them from its admission to its release. Law: which one does not change its tokens.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from quire.core.step import Admission, TopLogprobs
from quire.decoding.device import DeviceSampler
from quire.decoding.grammar import Given
from quire.decoding.logprobs import WHOLE_VOCABULARY
from quire.decoding.sampler import Sampled, Sampler
from quire.decoding.slots import NO_LOGPROBS, Choice
from quire.engine.worker.forward import Forward
from quire.engine.worker.slot_tokens import Places, to_device
from quire.kernels.ops.device_sampling import DeviceScores


class OnDevice(NamedTuple):
    """What was chosen on a device and is not read yet."""

    ids: Tensor
    """[R] int32."""
    scores: list[tuple[np.ndarray, DeviceScores]]
    """Rows [n] that asked for equally many log probabilities, and theirs."""


class Trial(Protocol):
    """A forward pass that knows what a slot takes, if it may follow."""

    def run(self, rows: np.ndarray, slots: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """What ``slots`` [n] at ``positions`` [n] try, by ``rows`` [n] of the hidden states: see Sampler.lead."""
        ...

    def redraw(self, rows: np.ndarray, slots: np.ndarray, positions: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """A sampler's Redraw, of the step that chose last; ``rows`` are the places of ``slots`` in it."""
        ...


class _Shares(NamedTuple):
    """Who chooses for whom among the slots of a step."""

    slots: np.ndarray
    """[R], as the step named them."""
    there: np.ndarray
    """Rows for whom the device chooses."""
    here: np.ndarray
    """Rows for whom the host does."""


class Chooser:
    """The samplers of one model runner, as one. ``device``: None where the model runs on the host."""

    def __init__(
        self, host: Sampler, device: DeviceSampler | None, where: torch.device, trial: Trial | None = None
    ) -> None:
        """``trial``: where a forward pass has one; masks made beside that would take their time from it."""
        self.host = host
        self._device = device
        self._trial = trial
        self._where = where
        # Of the last steps; good for the next one if nobody came or went and the same array names its slots.
        self._shares: _Shares | None = None
        self._choice: tuple[np.ndarray, Choice] | None = None

    def admit(self, admission: Admission) -> None:
        self._shares = self._choice = None
        if self._device is None or not self._device.admit(admission):
            self.host.admit(admission)

    def release(self, slots: np.ndarray) -> None:
        self._shares = self._choice = None
        self.host.release(slots)
        if self._device is not None:
            self._device.release(slots)

    def choice_of(self, slots: np.ndarray) -> Choice:
        """How ``slots`` [R] choose: on a device what is less than Choice.SAMPLED, if it chooses for all of them."""
        if self._choice is None or self._choice[0] is not slots:
            self._choice = slots, self._common(slots)
        return self._choice[1]

    def _common(self, slots: np.ndarray) -> Choice:
        if self._device is not None:
            is_theirs = not self._shares_of(self._device, slots).here.size
            return Choice.LIKELIEST if is_theirs and self._device.takes_likeliest(slots) else Choice.SAMPLED
        return self.host.parameters.choice_of(slots)

    def lead(self, token_ids: np.ndarray, slots: np.ndarray, positions: np.ndarray) -> Sampled:
        """Go on behind Forward.advance by Choice.LED, which gave ``token_ids`` [R] int32; they change in place."""
        assert self._trial is not None
        return self.host.lead(token_ids, slots, positions, self._trial.redraw)

    def prepare(self, slots: np.ndarray) -> None:
        """See Sampler.prepare."""
        if self._device is None:
            if self._trial is None or self.choice_of(slots) is Choice.SAMPLED:
                self.host.prepare(slots)
            return
        self._device.flush()
        ours = self._shares_of(self._device, slots).here
        if ours.size:
            self.host.prepare(slots[ours])

    def choose(
        self, forward: Forward, rows: np.ndarray, slots: np.ndarray, positions: np.ndarray, places: Places
    ) -> Sampled | OnDevice:
        """Choose the tokens of ``slots`` [R] at ``positions`` [R], by ``rows`` [R] of the step's hidden states.

        The same array of slots was given to ``prepare``. ``places``: these slots and positions, where the tokens will
        be written.
        """
        if self._device is None:
            return self._choose_here(forward, rows, slots, positions)
        shares = self._shares
        assert shares is not None and shares.slots is slots, "not prepared"
        theirs, ours = shares.there, shares.here
        if not ours.size:
            return self._choose_there(self._device, forward, rows, slots, places)
        if not theirs.size:
            return self._choose_here(forward, rows, slots, positions)
        some = Places(*to_device(np.stack((slots[theirs], positions[theirs])).astype(np.int64), self._where))
        there = _read(self._choose_there(self._device, forward, rows[theirs], slots[theirs], some))
        here = self._choose_here(forward, rows[ours], slots[ours], positions[ours])
        return _joined(len(slots), (theirs, there), (ours, here))

    def _shares_of(self, device: DeviceSampler, slots: np.ndarray) -> _Shares:
        if self._shares is None or self._shares.slots is not slots:
            held = device.holds(slots)
            self._shares = _Shares(slots, np.flatnonzero(held), np.flatnonzero(~held))
        return self._shares

    def _choose_here(self, forward: Forward, rows: np.ndarray, slots: np.ndarray, positions: np.ndarray) -> Sampled:
        choice = self.host.parameters.choice_of(slots)
        if choice is Choice.LIKELIEST:
            return Sampled(forward.likeliest(rows).cpu().numpy().copy())
        if self._trial is not None and choice <= Choice.LED:
            return self.lead(self._trial.run(rows, slots, positions), slots, positions)
        return self.host.sample(forward.logits(rows), slots, positions)

    def _choose_there(
        self, sampler: DeviceSampler, forward: Forward, rows: np.ndarray, slots: np.ndarray, places: Places
    ) -> OnDevice:
        if sampler.takes_likeliest(slots):
            return OnDevice(forward.likeliest(rows), [])
        wanted, flags = sampler.num_logprobs(slots), sampler.flags(slots)
        asking = np.flatnonzero(wanted != NO_LOGPROBS)
        logits = forward.logits(rows)
        raw = logits.clone() if asking.size and flags.has_penalties else logits
        assert isinstance(places.slots, Tensor) and isinstance(places.positions, Tensor)
        ids = sampler.sample(logits, places.slots, places.positions, flags)
        scores = []
        for k in np.unique(wanted[asking]).tolist():
            alike = np.flatnonzero(wanted == k)
            there = to_device(alike, self._where)
            most = logits.shape[1] if k == WHOLE_VOCABULARY else min(k, logits.shape[1])
            scores.append((alike, sampler.score(raw, there, ids[there], most)))
        return OnDevice(ids, scores)


class Reading(NamedTuple):
    """What was chosen on a device, on its way here."""

    there: OnDevice
    """In memory of this process."""
    arrived: torch.cuda.Event | None
    """None where the device is this process's own."""

    @staticmethod
    def begin(chosen: OnDevice) -> "Reading":
        """Let it come."""
        scores = [
            (rows, DeviceScores(*map(_copy, (found.token_ids, found.logprobs, found.ranks))))
            for rows, found in chosen.scores
        ]
        there = OnDevice(_copy(chosen.ids), scores)
        if chosen.ids.device.type == "cpu":
            return Reading(there, None)
        arrived: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        return Reading(there, arrived)

    def result(self) -> Sampled:
        """Wait for it."""
        if self.arrived is not None:
            self.arrived.synchronize()
        ids = self.there.ids.numpy()
        logprobs: dict[int, TopLogprobs] = {}
        for rows, found in self.there.scores:
            lists = zip(found.token_ids.numpy(), found.logprobs.numpy(), found.ranks.tolist(), strict=True)
            entries = (TopLogprobs(tokens, floats, (rank,)) for tokens, floats, rank in lists)
            logprobs |= {row: entry for row, entry in zip(rows.tolist(), entries, strict=True) if ids[row] >= 0}
        return Sampled(ids, logprobs)


def _read(chosen: OnDevice) -> Sampled:
    return Reading.begin(chosen).result()


def _copy(tensor: Tensor) -> Tensor:
    """In memory of this process, on its way when this returns."""
    if tensor.device.type == "cpu":
        return tensor.clone()
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def _joined(num_rows: int, *parts: tuple[np.ndarray, Sampled]) -> Sampled:
    """One answer of those for some rows each."""
    token_ids = np.empty(num_rows, np.int32)
    logprobs: dict[int, TopLogprobs] = {}
    forced: dict[int, list[int]] = {}
    concluded: set[int] = set()
    failures: dict[int, str] = {}
    for rows, part in parts:
        places: list[int] = rows.tolist()
        token_ids[rows] = part.token_ids
        logprobs |= {places[row]: entry for row, entry in part.logprobs.items()}
        forced |= {places[row]: run for row, run in part.given.forced.items()}
        concluded |= {places[row] for row in part.given.concluded}
        failures |= {places[row]: reason for row, reason in part.failures.items()}
    return Sampled(token_ids, logprobs, Given(forced, frozenset(concluded)), failures)
