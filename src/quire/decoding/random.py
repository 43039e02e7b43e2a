"""The random numbers of a choice, one or two: pure functions of (seed, position).

Nothing is kept between steps, so a sequence draws the same numbers alone, in a batch, after a preemption and in another
process. Law: one row's number depends on that row's seed and position only.

Source: SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014) with David
Stafford's Mix13. Position p takes output p of the generator that starts at mix(seed); mixing the seed first sets
neighbouring seeds, as the continuations of one request have, far apart.
"""

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def second_uniforms(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """As ``uniforms``: other numbers, of the generator that starts at mix(~seed)."""
    return uniforms(~seeds, positions)


def uniforms(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """One number in [0, 1) a row, with 53 random bits.

    ``seeds`` [R] uint64, ``positions`` [R] integers >= 0; returns [R] float64.
    """
    counters = (positions.astype(np.uint64) + np.uint64(1)) * _GAMMA
    bits = _mix(_mix(seeds) + counters)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: np.ndarray) -> np.ndarray:
    """A bijection of uint64 [R] in which every input bit moves every output bit; arithmetic is modulo 2**64."""
    z = (z ^ (z >> _SHIFTS[0])) * _MULTIPLIERS[0]
    z = (z ^ (z >> _SHIFTS[1])) * _MULTIPLIERS[1]
    mixed: np.ndarray = z ^ (z >> _SHIFTS[2])
    return mixed
