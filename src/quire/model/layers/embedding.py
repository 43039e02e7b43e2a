"""The two ends of a model: tokens to vectors, vectors to logits."""

import torch
from torch import Tensor

from quire.model.quantization.method import Table
from quire.model.weights.cursor import Cursor, Part


class Embedding:
    """A vector for each token, times ``scale``. Every rank holds all of it."""

    def __init__(self, w: Cursor, vocab_size: int, hidden_size: int, scale: float | None = None) -> None:
        self.table = w.method.table(Part(w, vocab_size, hidden_size))
        # Gemma was trained with the scale rounded to the weights' dtype.
        self._scale = 1.0 if scale is None else torch.tensor(scale, dtype=w.dtype).item()

    def __call__(self, tokens: Tensor) -> Tensor:
        """[T] int64 -> [T, E]."""
        return self.table.embed(tokens, self._scale)


class Head:
    """A score for each token of the vocabulary: by a matrix of its own, or by the embedding's (tied)."""

    def __init__(self, table: Table, softcap: float | None = None) -> None:
        self._table = table
        self._softcap = softcap

    @classmethod
    def load(cls, w: Cursor, vocab_size: int, hidden_size: int, softcap: float | None = None) -> "Head":
        """Read an untied head."""
        return cls(w.method.table(Part(w, vocab_size, hidden_size)), softcap)

    def logits(self, x: Tensor) -> Tensor:
        """[R, E] -> [R, V] float32."""
        return self._table.logits(x, self._softcap)

    def likeliest(self, x: Tensor) -> Tensor:
        """[R, E] -> [R] int32, -1 for rows that are not sound."""
        return self._table.likeliest(x, self._softcap)
