"""What is measured: the model's shape, the rows of a step, the streams that decode."""

from __future__ import annotations

from dataclasses import dataclass, replace

from danlu.model.config import ModelConfig
from danlu.model.sizes import published_config

LORA_RANK, LORA_ALPHA = 8, 16
_BIG, _EXPERTS = published_config("Qwen3-8B"), published_config("Qwen3-30B-A3B")
assert _BIG is not None
assert _EXPERTS is not None
assert _EXPERTS.experts is not None


@dataclass(frozen=True, kw_only=True)
class Streams:
    """Decoding to measure: so many at once, each with a prompt and an answer of so many tokens.

    Only `timed` tokens of the answer are, where the context is as long as in its middle.
    """

    count: int
    prompt: int
    answer: int
    timed: int

    @property
    def start(self) -> int:
        """Tokens before those that are timed: the prompt and half of the rest of the answer."""
        return self.prompt + (self.answer - self.timed) // 2

    @property
    def name(self) -> str:
        """Such as `64 x 128/1024`."""
        return f"{self.count} x {self.prompt}/{self.answer}"


@dataclass(frozen=True, kw_only=True)
class CheckShape:
    """recipe_rows: rows of a step of the seed's recipe, about `recipe_tokens` long each; full_rows
    likewise, each of exactly `full_tokens`. peer_rows: batches that the peer tries, largest first.
    kernel_tokens: rows that operations are tried with. steps: measured after one for warming up.
    fp8_steps: of the trainings whose losses are compared.
    """

    name: str
    config: ModelConfig
    experts: ModelConfig
    recipe_rows: int
    recipe_tokens: int
    full_rows: int
    full_tokens: int
    peer_rows: tuple[int, ...]
    kernel_tokens: tuple[int, ...]
    streams: tuple[Streams, ...]
    steps: int
    fp8_steps: int


def _streams(sizes: tuple[tuple[int, int], ...], timed: int, *counts: int) -> tuple[Streams, ...]:
    return tuple(
        Streams(count=count, prompt=prompt, answer=answer, timed=timed)
        for prompt, answer in sizes
        for count in counts
    )


SHAPES = {
    shape.name: shape
    for shape in (
        CheckShape(
            name="qwen3-8b",
            config=_BIG,
            experts=_EXPERTS,
            recipe_rows=16,
            recipe_tokens=200,
            full_rows=4,
            full_tokens=4096,
            peer_rows=(16, 8, 4, 2, 1),
            kernel_tokens=(1, 63, 200, 3213),
            streams=_streams(((128, 1024), (2048, 2048)), 96, 1, 8, 64),
            steps=4,
            fp8_steps=100,
        ),
        CheckShape(
            name="tiny",
            config=replace(
                _BIG,
                vocab_size=4096,
                hidden_size=128,
                intermediate_size=256,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=32,
            ),
            experts=replace(
                _EXPERTS,
                vocab_size=4096,
                hidden_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=32,
                experts=replace(_EXPERTS.experts, num_experts=8, moe_intermediate_size=64),
            ),
            recipe_rows=4,
            recipe_tokens=24,
            full_rows=2,
            full_tokens=64,
            peer_rows=(4, 2),
            kernel_tokens=(1, 17),
            streams=_streams(((8, 16),), 8, 1, 4),
            steps=2,
            fp8_steps=4,
        ),
    )
}
