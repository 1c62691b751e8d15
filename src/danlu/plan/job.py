"""What is trained, and how a step is computed: the two things that memory and time depend on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from danlu.device.datasheets import DeviceFacts
from danlu.device.weight_forms import matrix_bytes
from danlu.errors import UsageError
from danlu.language import _
from danlu.model.config import ModelConfig, WeightForm
from danlu.model.layout import PROJECTIONS, merged_shape, num_experts, projection_shape
from danlu.model.recompute import Recompute
from danlu.model.sizes import num_expert_layers, num_parameters


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """How a step is computed. It changes speed, memory and the last bits, never what is learned.

    micro_batch_tokens: tokens computed at once at most (a longer example is computed alone).
    chunk_rows: rows of logits at a time. packs_base: the matrices below an adapter are packed for
    both directions.
    """

    micro_batch_tokens: int
    chunk_rows: int
    recompute: Recompute
    packs_base: bool = False


@dataclass(frozen=True, kw_only=True)
class Job:
    """A model and what is trained of it.

    number_bytes: of a weight and an activation, 2 or 4. ranks: of the adapter by projection, such
    as {"q_proj": 8}; None where every weight is trained. base_form: of the matrices below an
    adapter; None: as they are. num_shares: over how many devices the model's weights are divided;
    1: each has all of them. Raises UsageError for experts in fp8.
    """

    config: ModelConfig
    number_bytes: int
    ranks: Mapping[str, int] | None
    base_form: WeightForm | None = None
    num_shares: int = 1

    def __post_init__(self) -> None:
        if self.base_form == "fp8" and self.config.experts is not None:
            raise UsageError(
                _("A model with experts is not trained in fp8."),
                why=_("Only dense models have matrices in fp8."),
                fix="--fp8 false",
            )

    @property
    def trains_all(self) -> bool:
        """Whether every weight is trained."""
        return self.ranks is None

    @property
    def num_weights(self) -> int:
        """Numbers of the model itself."""
        return num_parameters(self.config)

    def weight_bytes(self, kind: str) -> int:
        """Return the bytes of the model itself on a kind of device."""
        if self.base_form is None:
            return self.num_weights * self.number_bytes
        size = self.number_bytes
        rest = self.num_weights - sum(_numbers_of_layers(self.config))
        return rest * size + sum(
            matrix_bytes(self.base_form, out, inner, kind=kind, number_bytes=size)
            for out, inner in _matrices(self.config)
        )

    @property
    def packed_bytes(self) -> int:
        """Return what the matrices take besides where they are packed for both directions."""
        head = self.config.vocab_size * self.config.hidden_size
        return (sum(_numbers_of_layers(self.config)) + head) * self.number_bytes

    def packs_on(self, device: DeviceFacts) -> bool:
        """Whether the matrices below the adapter can be packed on a device: dense, in 16 bits."""
        is_plain = self.base_form is None and not self.is_shared and self.config.experts is None
        return device.packs and is_plain and not self.trains_all and self.number_bytes == 2

    @property
    def is_shared(self) -> bool:
        """Whether a device holds only a share of the weights."""
        return self.num_shares > 1

    @property
    def gathered_bytes(self) -> int:
        """Bytes of weights that are there whole at the same time, where they are divided.

        Two layers, of which one is being gathered, and what is outside the layers.
        """
        if not self.is_shared:
            return 0
        in_layers = _numbers_of_layers(self.config)
        outside = self.num_weights - sum(in_layers)
        return (2 * max(in_layers) + outside) * self.number_bytes

    @property
    def largest_matrix(self) -> int:
        """Numbers of the largest matrix of a layer, all experts' in one."""
        return max(out * inner for out, inner in _matrices(self.config))

    @property
    def num_trained(self) -> int:
        """Numbers that the optimizer changes."""
        if self.ranks is None:
            return self.num_weights
        return _adapter_numbers(self.config, tuple(self.ranks.items()))

    @property
    def num_trained_active(self) -> int:
        """Numbers of an adapter that a token is multiplied with."""
        return _adapter_numbers(self.config, tuple((self.ranks or {}).items()), is_active=True)

    @property
    def expert_layers(self) -> int:
        """How many layers have experts."""
        return num_expert_layers(self.config)

    @property
    def row_size(self) -> float:
        """Numbers of hidden_size that a token has as rows of experts, in a layer on average."""
        experts, layers = self.config.experts, self.config.num_hidden_layers
        if experts is None:
            return 0.0
        rows = self.expert_layers * experts.num_experts_per_tok
        return rows * self.config.hidden_size / layers

    @property
    def inner_size(self) -> float:
        """Width of what is between gate, up and down for a token, in a layer on average."""
        config = self.config
        dense = 1 - self.expert_layers / config.num_hidden_layers
        return dense * config.intermediate_size + self.expert_inner_size

    @property
    def expert_inner_size(self) -> float:
        """The part of it that experts have."""
        experts, layers = self.config.experts, self.config.num_hidden_layers
        if experts is None:
            return 0.0
        of_layer = experts.num_experts_per_tok * experts.moe_intermediate_size
        return self.expert_layers * of_layer / layers

    def rank(self, merged: str) -> int:
        """Sum of the ranks on a merged projection such as `qkv_proj`; 0 without an adapter."""
        return sum((self.ranks or {}).get(part, 0) for part in PROJECTIONS[merged])

    def is_trained(self, merged: str) -> bool:
        """Whether a merged projection has something to learn: then its input is kept."""
        return self.trains_all or self.rank(merged) > 0


@lru_cache(maxsize=64)
def _matrices(config: ModelConfig) -> tuple[tuple[int, int], ...]:
    """List the layers' matrices as they are stored, (out, in): all experts' in one."""
    found = []
    for layer in range(config.num_hidden_layers):
        for merged in PROJECTIONS:
            out, inner = merged_shape(config, merged, layer)
            found.append(((num_experts(config, merged, layer) or 1) * out, inner))
    return tuple(found)


@lru_cache(maxsize=64)
def _numbers_of_layers(config: ModelConfig) -> tuple[int, ...]:
    """Count the numbers of each layer's matrices, all experts' among them."""
    return tuple(
        sum(
            (num_experts(config, merged, layer) or 1)
            * math.prod(merged_shape(config, merged, layer))
            for merged in PROJECTIONS
        )
        for layer in range(config.num_hidden_layers)
    )


@lru_cache(maxsize=64)
def _adapter_numbers(
    config: ModelConfig, ranks: tuple[tuple[str, int], ...], *, is_active: bool = False
) -> int:
    total = 0
    for layer in range(config.num_hidden_layers):
        experts = config.experts_of(layer)
        for merged, parts in PROJECTIONS.items():
            count = num_experts(config, merged, layer) or 1
            if is_active and experts is not None:
                count = min(count, experts.num_experts_per_tok)
            for name, rank in ranks:
                if name in parts:
                    total += count * rank * sum(projection_shape(config, name, layer))
    return total


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """What one forward and backward pass computes: a packed batch, in numbers.

    targets: supervised tokens; squares: the sum of every segment's length squared.
    """

    tokens: int
    targets: int
    squares: int
    segments: int
