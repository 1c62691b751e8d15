"""A forward pass over a model that stays on disk: one layer of it is in memory at a time.

For the few tokens of a verification: a model of any size is computed in fp32 with the memory of one
layer, and its weights are read once. What adapters change may be computed beside the weights, so
that nothing is merged. Knows weights and layers. Must not know files that are written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.lora.stored import EMBEDDING, OUTPUT, Change
from danlu.model.attention import PackedAttention
from danlu.model.config import ModelConfig
from danlu.model.experts import Groups
from danlu.model.layout import Piece, layout
from danlu.model.qwen3 import (
    Head,
    Layer,
    Linear,
    begin_product,
    empty_weight,
    expert_product,
    new_layer,
    projection_input,
)
from danlu.ops import Segments, Stream, end_linear, rms_norm
from danlu.weights.sharded import BytesRead, WeightFolder

# What adapters do to each tensor, by Hugging Face's names, one after the other.
Changes = Mapping[str, Sequence[Change]]
_EMBEDDING, _OUTPUT = f"{EMBEDDING}.weight", f"{OUTPUT}.weight"
# The output matrix is multiplied in pieces of so many rows.
_ROWS = 2048


@torch.inference_mode()
def logits_on_disk(
    weights: WeightFolder,
    config: ModelConfig,
    prompts: Sequence[Sequence[int]],
    *,
    device: torch.device,
    changes: Changes,
    progress: BytesRead,
) -> Tensor:
    """Return the logits of every prompt token, fp32 [tokens, vocab] on the CPU.

    weights: of a folder that has passed `check`. changes: {} for a model without adapters.
    Raises DataError where the files cannot be read.
    """
    reading = _Reading(weights, changes, device, progress)
    ids = [token for prompt in prompts for token in prompt]
    positions = torch.tensor([p for prompt in prompts for p in range(len(prompt))], device=device)
    lengths = [len(prompt) for prompt in prompts]
    attend = PackedAttention(config, positions, Segments.of(lengths, device))
    table = layout(config)
    linear = Unmerged(table, changes)
    x = reading.embedded(ids)
    layer = new_layer(config, 0, device, torch.float32)
    for index in range(config.num_hidden_layers):
        if config.experts_of(index) != config.experts_of(layer.index):
            del layer  # before the other kind takes memory
            layer = new_layer(config, index, device, torch.float32)
        layer.index = index
        for name, parameter in layer.named_parameters():
            reading.fill(table[f"layers.{index}.{name}"], parameter.detach())
        x = layer(x, attend, linear)
    norm = empty_weight(config.hidden_size, device=device, dtype=torch.float32)
    reading.fill(table["head.norm"], norm)
    n = rms_norm(x, norm, config.rms_norm_eps)
    return reading.output(n, _EMBEDDING if config.tie_word_embeddings else _OUTPUT)


class Unmerged(Linear):
    """Each product of a layer, and what adapters add to it.

    table: the layout of the whole model.
    """

    def __init__(self, table: Mapping[str, Sequence[Piece]], changes: Changes) -> None:
        self._table, self._changes = table, changes

    def __call__(
        self, layer: Layer | Head, name: str, x: Tensor | Stream, residual: Tensor | None = None
    ) -> Tensor:  # [T, in] -> [T, out]
        assert isinstance(layer, Layer)
        n = projection_input(layer, name, x)
        y, _left = begin_product(layer, name, n, None)
        weight: Tensor = getattr(layer, name)
        for piece in self._table[f"layers.{layer.index}.{name}"]:
            rows = slice(piece.start, piece.start + piece.shape[0])
            change_product(self._changes.get(piece.hf_name, ()), n, y[:, rows], weight[rows])
        return end_linear(y, residual)

    def by_experts(self, layer: Layer, name: str, x: Tensor, groups: Groups) -> Tensor:
        y = expert_product(layer, name, x, groups)
        weight: Tensor = getattr(layer, name)
        ends = [0, *groups.ends.tolist()]
        for piece in self._table[f"layers.{layer.index}.{name}"]:
            expert, first = divmod(piece.start, y.shape[1])
            rows = slice(ends[expert], ends[expert + 1])
            out = slice(first, first + piece.shape[0])
            of_piece = weight[piece.start : piece.start + piece.shape[0]]
            change_product(self._changes.get(piece.hf_name, ()), x[rows], y[rows, out], of_piece)
        return y


def change_product(
    changes: Sequence[Change], n: Tensor, y: Tensor, weight: Tensor, first_row: int = 0
) -> None:
    """Change the product y = n W^T in place; W may be a part of the weight, from `first_row` on."""
    rows = slice(first_row, first_row + len(weight))
    for change in changes:
        if change.a is None or change.b is None:
            continue
        a, b = (each.to(n.device, n.dtype) for each in (change.a, change.b[rows]))
        y += F.linear(F.linear(n, a) * change.scaling, b)
        if change.magnitude is not None:
            lengths = _row_lengths(weight, a, b, change.scaling)
            y *= change.magnitude[rows].to(n.device) / lengths


def _row_lengths(weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """Return the lengths [out] of the rows of W + scaling B A, without adding the matrices."""
    squares = weight.square().sum(1)
    mixed = (F.linear(weight, a) * b).sum(1)
    added = ((b @ (a @ a.t())) * b).sum(1)
    return (squares + 2 * scaling * mixed + scaling**2 * added).sqrt()


class _Reading:
    """Reads tensors in fp32, with other ones in their place where adapters bring some."""

    def __init__(
        self, weights: WeightFolder, changes: Changes, device: torch.device, progress: BytesRead
    ) -> None:
        self._weights, self._changes, self._device = weights, changes, device
        self._progress = progress
        self._read_into: Callable[[str, Tensor], None] = weights.reader(progress)

    def fill(self, pieces: Sequence[Piece], destination: Tensor) -> None:
        """Fill one of our tensors."""
        for piece in pieces:
            place = destination[piece.start : piece.start + piece.shape[0]]
            self._read_into(piece.hf_name, place)
            whole = self._whole(piece.hf_name)
            if whole is not None:
                place.copy_(whole)

    def embedded(self, ids: Sequence[int]) -> Tensor:
        """Return the embeddings [T, H] of tokens; only their rows are read."""
        whole, known = self._whole(_EMBEDDING), sorted(set(ids))
        if whole is None:
            parts = [self._weights.rows(_EMBEDDING, id_, id_ + 1) for id_ in known]
            rows = torch.cat(parts).float()
        else:
            rows = whole[known].float()
        for change in self._changes.get(_EMBEDDING, ()):
            if change.a is not None and change.b is not None:
                rows += (change.b[known] @ change.a) * change.scaling
        place = {id_: number for number, id_ in enumerate(known)}
        return rows[[place[id_] for id_ in ids]].to(self._device)

    def output(self, n: Tensor, name: str) -> Tensor:
        """Multiply n [T, H] with the output matrix, which is stored as `name`."""
        changes, whole = self._changes.get(_OUTPUT, ()), self._whole(_OUTPUT)
        num_rows = self._weights.files[name].tensors[name].shape[0]
        logits = torch.empty(len(n), num_rows)
        total = self._weights.num_bytes
        for start in range(0, num_rows, _ROWS):
            stop = min(start + _ROWS, num_rows)
            rows = self._weights.rows(name, start, stop) if whole is None else whole[start:stop]
            weight = rows.to(self._device, torch.float32)
            y = F.linear(n, weight)
            change_product(changes, n, y, weight, first_row=start)
            logits[:, start:stop] = y.cpu()
        self._progress(total, total)
        return logits

    def _whole(self, name: str) -> Tensor | None:
        """Return the tensor that an adapter puts into another's place."""
        found = [c.whole for c in self._changes.get(name, ()) if c.whole is not None]
        return found[-1] if found else None
