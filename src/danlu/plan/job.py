"""What is trained, and how a step is computed: the two things that memory and time depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from danlu.device.weight_forms import matrix_bytes
from danlu.model.config import ModelConfig, WeightForm
from danlu.model.layout import PROJECTIONS, merged_shape, projection_shape
from danlu.model.recompute import Recompute
from danlu.model.sizes import num_parameters


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """How a step is computed. It changes speed, memory and the last bits, never what is learned.

    micro_batch_tokens: tokens computed at once at most (a longer example is computed alone).
    chunk_rows: rows of logits at a time.
    """

    micro_batch_tokens: int
    chunk_rows: int
    recompute: Recompute


@dataclass(frozen=True, kw_only=True)
class Job:
    """A model and what is trained of it.

    number_bytes: of a weight and an activation, 2 or 4. ranks: of the adapter by projection, such
    as {"q_proj": 8}; None where every weight is trained. base_form: of the matrices below an
    adapter; None: as they are. num_shares: over how many devices the model's weights are divided;
    1: each has all of them.
    """

    config: ModelConfig
    number_bytes: int
    ranks: Mapping[str, int] | None
    base_form: WeightForm | None = None
    num_shares: int = 1

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
        shapes = [merged_shape(self.config, name) for name in PROJECTIONS]
        layers, size = self.config.num_hidden_layers, self.number_bytes
        rest = self.num_weights - layers * sum(out * inner for out, inner in shapes)
        return rest * size + layers * sum(
            matrix_bytes(self.base_form, out, inner, kind=kind, number_bytes=size)
            for out, inner in shapes
        )

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
        layers = self.config.num_hidden_layers
        matrices = [merged_shape(self.config, name) for name in PROJECTIONS]
        in_layer = sum(out * inner for out, inner in matrices)
        outside = self.num_weights - layers * in_layer
        return (2 * in_layer + outside) * self.number_bytes

    @property
    def num_trained(self) -> int:
        """Numbers that the optimizer changes."""
        if self.ranks is None:
            return self.num_weights
        return self.config.num_hidden_layers * sum(
            rank * sum(projection_shape(self.config, name)) for name, rank in self.ranks.items()
        )

    def rank(self, merged: str) -> int:
        """Sum of the ranks on a merged projection such as `qkv_proj`; 0 without an adapter."""
        return sum((self.ranks or {}).get(part, 0) for part in PROJECTIONS[merged])

    def is_trained(self, merged: str) -> bool:
        """Whether a merged projection has something to learn: then its input is kept."""
        return self.trains_all or self.rank(merged) > 0


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """What one forward and backward pass computes: a packed batch, in numbers.

    targets: supervised tokens; squares: the sum of every segment's length squared.
    """

    tokens: int
    targets: int
    squares: int
    segments: int
