"""Floors of a step: the time that its bytes and its products take at the limits of a device.

    PYTHONPATH=src:. python -m benchmarks.gpu.roofline

For each kind of operation the greater of bytes / bandwidth and products / rate, and these summed: operations of a layer
wait for each other. Launches, norms and activations cost nothing here. Of a mixture, as many experts are read as tokens
meet on average if each chooses freely.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.gpu.shapes import MODELS


@dataclass(frozen=True)
class Limits:
    """What a device gives; bytes count reads and writes, rates count a multiplication and an addition as two."""

    bytes_per_s: float
    bf16_flops: float
    fp8_flops: float

    def rate(self, itemsize: int) -> float:
        return self.fp8_flops if itemsize == 1 else self.bf16_flops

    def seconds(self, num_bytes: float, flops: float, itemsize: int = 2) -> float:
        """Of one operation on operands of so many bytes each."""
        return max(num_bytes / self.bytes_per_s, flops / self.rate(itemsize))


H200 = Limits(4.3e12, 790e12, 1580e12)
"""Bandwidth and bfloat16 as seen on one; e4m3 assumed to be twice that."""


class Floor(NamedTuple):
    """Seconds."""

    linear: float
    head: float
    attention: float

    @property
    def total(self) -> float:
        return self.linear + self.head + self.attention


@dataclass(frozen=True)
class Model:
    """Sizes of a decoder, from its config.json; weights in each layer, their bytes, and those of its KV."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    dense: int
    """Weights of a layer's products that every token meets."""
    router: int
    expert: int
    """Weights of one expert; 0 without a mixture."""
    num_experts: int
    top_k: int
    weight_itemsize: int
    kv_itemsize: int = 2

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Model":
        hidden, heads, kv_heads = (
            config[name] for name in ("hidden_size", "num_attention_heads", "num_key_value_heads")
        )
        head_dim = config.get("head_dim") or hidden // heads
        attention = hidden * (heads + 2 * kv_heads) * head_dim + heads * head_dim * hidden
        num_experts = config.get("num_experts", 0)
        return cls(
            layers=config["num_hidden_layers"],
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            vocab=config["vocab_size"],
            dense=attention + (0 if num_experts else 3 * hidden * config["intermediate_size"]),
            router=hidden * num_experts,
            expert=3 * hidden * config["moe_intermediate_size"] if num_experts else 0,
            num_experts=num_experts,
            top_k=config.get("num_experts_per_tok", 0),
            weight_itemsize=1 if "quantization_config" in config else 2,
        )

    @property
    def kv_bytes(self) -> int:
        """Of one token."""
        return self.layers * 2 * self.kv_heads * self.head_dim * self.kv_itemsize

    @property
    def weight_bytes(self) -> float:
        """Of all weights; embedding and head in 16 bits."""
        experts = self.num_experts * self.expert
        return self.layers * ((self.dense + experts) * self.weight_itemsize + 2 * self.router) + 4 * self.vocab * (
            self.hidden
        )

    def experts_met(self, num_tokens: int) -> float:
        """Of one layer, on average."""
        return self.num_experts * (1 - (1 - self.top_k / self.num_experts) ** num_tokens) if self.num_experts else 0.0

    def linear(self, num_tokens: int, limits: Limits) -> float:
        """All layers' products with weights."""
        size = self.weight_itemsize
        each = limits.seconds(self.dense * size, 2 * self.dense * num_tokens, size)
        each += limits.seconds(2 * self.router, 2 * self.router * num_tokens)
        met = self.experts_met(num_tokens) * self.expert * size
        each += limits.seconds(met, 2 * self.top_k * self.expert * num_tokens, size)
        return self.layers * each

    def head(self, num_rows: int, limits: Limits) -> float:
        weights = self.vocab * self.hidden
        return limits.seconds(2 * weights, 2 * weights * num_rows)

    def decode(self, batch: int, context: int, limits: Limits) -> Floor:
        """One token of each of ``batch`` sequences that have ``context``."""
        products = 4 * self.layers * self.heads * self.head_dim * context * batch
        attention = limits.seconds(batch * context * self.kv_bytes, products)
        return Floor(self.linear(batch, limits), self.head(batch, limits), attention)

    def prefill(self, tokens: int, limits: Limits) -> Floor:
        """A step with one prompt of so many; causal, so half of all pairs."""
        products = 2 * self.layers * self.heads * self.head_dim * tokens * tokens
        attention = limits.seconds(2 * tokens * self.kv_bytes, products)
        return Floor(self.linear(tokens, limits), self.head(1, limits), attention)

    def step(self, starts: Any, counts: Any, num_rows: int, limits: Limits) -> float:
        """Seconds of any step: arrays [S] of where sequences begin in it and how many tokens they compute."""
        counts, starts = counts.astype(float), starts.astype(float)
        pairs = float((counts * starts + counts * (counts + 1) / 2).sum())
        products = 4 * self.layers * self.heads * self.head_dim * pairs
        attention = limits.seconds(float((starts + counts).sum()) * self.kv_bytes, products)
        return self.linear(int(counts.sum()), limits) + self.head(num_rows, limits) + attention


def main() -> None:
    for name, config in MODELS.items():
        model = Model.of(config)
        print(f"{name}: weights {model.weight_bytes / 1e9:.1f} GB, KV {model.kv_bytes / 1024:.0f} KiB a token")
        for context in (1024, 4096, 16384):
            floors = [(batch, model.decode(batch, context, H200).total) for batch in (1, 8, 32, 64, 256)]
            cells = (f"{batch}: {1e3 * floor:.2f} ms" for batch, floor in floors)
            print(f"  decode, context {context}: " + ", ".join(cells))
        prompts = ((tokens, model.prefill(tokens, H200).total) for tokens in (1024, 4096, 8192))
        print("  prompts: " + ", ".join(f"{tokens}: {1e3 * floor:.1f} ms" for tokens, floor in prompts))


if __name__ == "__main__":
    main()
