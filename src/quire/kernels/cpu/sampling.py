"""Sampling by the native kernels, on a pool's threads."""

import ctypes

import numpy as np
import torch
from torch import Tensor

from quire.kernels.cpu.library import DrawArrays, Library, Pool
from quire.kernels.ops.sampling import Draws, Scores


class NativeSampling:
    """A Sampling for logits on the CPU. Lives on a worker, whose programs use the same pool."""

    MAX_VOCAB_SIZE = 2**20

    def __init__(self, library: Library, pool: Pool) -> None:
        self._library = library
        self._pool = pool

    def draw_tokens(
        self, logits: Tensor, draws: Draws, rows: np.ndarray | None = None, free: np.ndarray | None = None
    ) -> np.ndarray:
        """See Sampling.draw_tokens."""
        arrays: list[np.ndarray] = [
            np.ascontiguousarray(draws.temperature, np.float32),
            np.ascontiguousarray(draws.log_min_p, np.float32),
            np.ascontiguousarray(draws.top_k, np.int64),
            np.ascontiguousarray(draws.top_p, np.float64),
            np.ascontiguousarray(draws.uniforms, np.float64),
        ]
        num_rows, vocab_size = _shape(logits)
        index = None if rows is None else _places(rows, num_rows)
        count = num_rows if index is None else len(index)
        assert all(array.shape == (count,) for array in arrays)
        if free is not None:
            assert free.shape == (count,) and (not count or free.max() < vocab_size)
            arrays.append(np.ascontiguousarray(free, np.int32))
        asked = DrawArrays(*(array.ctypes.data for array in arrays))
        token_ids = np.empty(count, np.int32)
        code = self._library.quire_draw_tokens(
            self._pool.address,
            logits.data_ptr(),
            logits.stride(0),
            None if index is None else index.ctypes.data,
            count,
            vocab_size,
            ctypes.addressof(asked),
            token_ids.ctypes.data,
        )
        assert code == 0, f"quire_draw_tokens: {code}"
        return token_ids

    def score_tokens(self, logits: Tensor, rows: np.ndarray, tokens: np.ndarray, k: int) -> Scores:
        """See Sampling.score_tokens."""
        num_rows, vocab_size = _shape(logits)
        rows, tokens = _places(rows, num_rows), np.ascontiguousarray(tokens, np.int32)
        scores = Scores.empty(rows, tokens, k)
        code = self._library.quire_score_tokens(
            self._pool.address,
            logits.data_ptr(),
            logits.stride(0),
            rows.ctypes.data,
            len(rows),
            vocab_size,
            tokens.ctypes.data,
            tokens.shape[1],
            k,
            scores.token_ids.ctypes.data,
            scores.logprobs.ctypes.data,
            scores.ranks.ctypes.data,
        )
        assert code == 0, f"quire_score_tokens: {code}"
        return scores

    def keep_allowed(self, logits: Tensor, rows: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """See Sampling.keep_allowed."""
        num_rows, vocab_size = _shape(logits)
        rows = _places(rows, num_rows)
        sound = np.empty(len(rows), bool)
        code = self._library.quire_keep_allowed(
            self._pool.address,
            logits.data_ptr(),
            logits.stride(0),
            rows.ctypes.data,
            len(rows),
            vocab_size,
            masks.ctypes.data,
            _stride(masks, len(rows)),
            sound.ctypes.data,
        )
        assert code == 0, f"quire_keep_allowed: {code}"
        return sound


def _shape(logits: Tensor) -> tuple[int, int]:
    assert logits.dtype == torch.float32 and logits.device.type == "cpu" and logits.stride(1) == 1
    return logits.shape[0], logits.shape[1]


def _places(rows: np.ndarray, num_rows: int) -> np.ndarray:
    """``rows`` [n] as int64, side by side."""
    assert not rows.size or (rows.min() >= 0 and rows.max() < num_rows)
    return np.ascontiguousarray(rows, np.int64)


def _stride(masks: np.ndarray, count: int) -> int:
    """From one of ``count`` rows of masks to the next, in words."""
    assert masks.dtype == np.int32 and masks.strides[1] == masks.itemsize and masks.shape[0] == count
    return masks.strides[0] // masks.itemsize
