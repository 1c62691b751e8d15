"""The matrix products that LoRA training of a Qwen3 needs, counted; nothing else is.

Needed is: every projection forward, its input gradient (frozen weights get none themselves), the
adapters with all three of their products, causal attention, and the output matrix on the rows that
a side gives it. What a side computes twice to save memory, or on padding, is not needed. One
multiply-add is two operations.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.train.measured import Step


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes in a Qwen3's config.json that decide how much is computed."""

    num_layers: int
    hidden: int
    query: int
    key_value: int
    intermediate: int
    vocab: int

    @classmethod
    def read(cls, config: Path) -> Shape:
        """Read them from a folder with config.json."""
        values = json.loads((config / "config.json").read_text(encoding="utf-8"))
        return cls(
            num_layers=values["num_hidden_layers"],
            hidden=values["hidden_size"],
            query=values["num_attention_heads"] * values["head_dim"],
            key_value=values["num_key_value_heads"] * values["head_dim"],
            intermediate=values["intermediate_size"],
            vocab=values["vocab_size"],
        )

    @property
    def projections(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of a layer's seven projections; q, k and v come first."""
        return (
            (self.hidden, self.query),
            (self.hidden, self.key_value),
            (self.hidden, self.key_value),
            (self.query, self.hidden),
            (self.hidden, self.intermediate),
            (self.hidden, self.intermediate),
            (self.intermediate, self.hidden),
        )


def step_flops(shape: Shape, step: Step, *, lora_rank: int) -> int:
    """Count the operations that an optimizer step needs, forward and backward."""
    per_token = projection_flops(shape) + lora_flops(shape, lora_rank)
    attention = sum(attention_flops(shape, length) for length in step.lengths)
    # Forward, and the gradient of the hidden rows.
    head = 4 * shape.hidden * shape.vocab * step.head_rows
    return per_token * step.num_tokens + attention + head


def projection_flops(shape: Shape) -> int:
    """Count the frozen projections of a token, forward and input gradient."""
    layer = sum(inputs * outputs for inputs, outputs in shape.projections)
    # The frozen embedding needs no gradient, so the first layer's q, k and v pass none on.
    unneeded = sum(inputs * outputs for inputs, outputs in shape.projections[:3])
    return 4 * shape.num_layers * layer - 2 * unneeded


def lora_flops(shape: Shape, rank: int) -> int:
    """Count the adapters of a token: forward, gradients of the weights, input gradient."""
    layer = sum(rank * (inputs + outputs) for inputs, outputs in shape.projections)
    unneeded = sum(rank * inputs for inputs, _outputs in shape.projections[:3])
    return 6 * shape.num_layers * layer - 2 * unneeded


def attention_flops(shape: Shape, length: int) -> int:
    """Count causal attention over one example.

    Scores and their use forward, four products of the same size backward (queries, keys, values,
    scores); each only where a token may look.
    """
    pairs = length * (length + 1) // 2
    return 6 * 2 * shape.num_layers * shape.query * pairs
