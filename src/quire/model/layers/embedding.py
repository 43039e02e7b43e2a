"""The two ends of a model: tokens to vectors, vectors to logits."""

import torch
import torch.nn.functional as F
from torch import Tensor

from quire.kernels.ops.linear import linear
from quire.model.quantization.method import Side, Weight
from quire.model.weights.cursor import Cursor, Part


class Embedding:
    """A vector for each token, times ``scale``. Every rank holds all of it."""

    def __init__(self, w: Cursor, vocab_size: int, hidden_size: int, scale: float | None = None) -> None:
        self.weight = w.pull("weight", (vocab_size, hidden_size))
        # Gemma was trained with the scale rounded to the weights' dtype.
        self._scale = None if scale is None else torch.tensor(scale, dtype=w.dtype, device=w.device)

    def __call__(self, tokens: Tensor) -> Tensor:
        """[T] int64 -> [T, E]."""
        x = F.embedding(tokens, self.weight)
        return x if self._scale is None else x * self._scale


class Head:
    """A score for each token of the vocabulary: by a matrix of its own, or by the embedding's (tied)."""

    def __init__(self, weight: Weight | Tensor, softcap: float | None = None) -> None:
        self._weight = weight
        self._softcap = softcap

    @classmethod
    def load(cls, w: Cursor, vocab_size: int, hidden_size: int, softcap: float | None = None) -> "Head":
        """Read an untied head."""
        return cls(w.method.load([Part(w, vocab_size, hidden_size)], Side.NONE), softcap)

    def __call__(self, x: Tensor) -> Tensor:
        """[R, E] -> [R, V] float32."""
        weight = self._weight
        logits = (linear(x, weight) if isinstance(weight, Tensor) else weight.matmul(x)).float()
        if self._softcap is None:
            return logits
        return logits.div_(self._softcap).tanh_().mul_(self._softcap)
