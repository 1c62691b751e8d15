"""Weights in int8 or int4: a module in the place of a projection's matrix, which multiplies.

Only for inference: there is no gradient. A model is built one matrix at a time, so that hardly more
memory is taken on the way than in the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from danlu.model.config import ModelConfig
from danlu.model.layout import PROJECTIONS, Piece, layout, merged_shape
from danlu.model.qwen3 import Qwen3, replace_weight
from danlu.ops import (
    empty_int4,
    empty_int8,
    int4_linear,
    int8_linear,
    quantize_int4,
    quantize_int8,
)
from danlu.ops.quantized import GROUP

Quantization = Literal["int8", "int4"]
# The embedding is looked up, not multiplied: it stays as it is.
_QUANTIZED = (*PROJECTIONS, "lm_head")


class Int8Weight(nn.Module):
    """A matrix [out, in] with one scale per output, still empty; `like`: its shape and dtype."""

    values: Tensor
    scales: Tensor

    def __init__(self, like: Tensor, device: torch.device) -> None:
        super().__init__()
        values, scales = empty_int8(like, device)
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)

    def fill(self, weight: Tensor) -> None:
        quantize_int8(weight, out=(self.values, self.scales))

    def forward(self, x: Tensor) -> Tensor:  # [T, in] -> [T, out]
        return int8_linear(x, self.values, self.scales)


class Int4Weight(nn.Module):
    """A matrix [out, in] with scale and zero for each group of inputs, still empty."""

    packed: Tensor
    scales_and_zeros: Tensor

    def __init__(self, like: Tensor, device: torch.device) -> None:
        super().__init__()
        self.num_outputs = len(like)
        packed, scales_and_zeros = empty_int4(like, device)
        self.register_buffer("packed", packed)
        self.register_buffer("scales_and_zeros", scales_and_zeros)

    def fill(self, weight: Tensor) -> None:
        quantize_int4(weight, out=(self.packed, self.scales_and_zeros))

    def forward(self, x: Tensor) -> Tensor:  # [T, in] -> [T, out]
        # The last block of outputs may be longer than the matrix.
        return int4_linear(x, self.packed, self.scales_and_zeros)[:, : self.num_outputs]


def fits_int4(config: ModelConfig) -> bool:
    """Return whether every product has a multiple of `ops.quantized.GROUP` inputs."""
    widths = (config.hidden_size, config.q_size, config.intermediate_size)
    return all(width % GROUP == 0 for width in widths)


def quantized_bytes(
    config: ModelConfig, dtype: torch.dtype, quantization: Quantization | None
) -> int:
    """Return what the weights take in memory; None: all are kept in the dtype."""
    width = float(dtype.itemsize)
    if quantization is not None:
        width = 1.0 if quantization == "int8" else 0.5 + 2 * dtype.itemsize / GROUP
    total = 0.0
    for name, pieces in layout(config).items():
        is_quantized = name.rpartition(".")[2] in _QUANTIZED
        total += _numbers(pieces) * (width if is_quantized else dtype.itemsize)
    if quantization is not None and config.tie_word_embeddings:
        total += config.vocab_size * config.hidden_size * width
    return int(total)


def quantized_model(
    config: ModelConfig,
    quantization: Quantization,
    read_into: Callable[[str, Tensor], None],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Qwen3:
    """Build a model with quantised matrices.

    read_into(name, destination): fills the destination with a Hugging Face tensor. int4 needs a
    model that `fits_int4`.
    """
    model = Qwen3(config, device=torch.device("meta"), dtype=dtype)
    # All room first, and one place to read the layers' matrices into: nothing that stays is then
    # allocated between what is freed. The holes that this left in the heap took up to 15 %. Room
    # takes memory only when it is written.
    names = [*layout(config), *(["head.lm_head"] if config.tie_word_embeddings else [])]
    weights = {name: _make_room(model, name, quantization, device) for name in names}
    largest = max(math.prod(merged_shape(config, name)) for name in PROJECTIONS)
    place = torch.empty(largest, device=device, dtype=dtype)
    # The largest first: an output matrix of its own is read while little else has been written.
    for name, pieces in sorted(layout(config).items(), key=lambda item: -_numbers(item[1])):
        weight = weights[name]
        if isinstance(weight, Tensor):
            _read(pieces, weight, read_into)
            continue
        numbers = _numbers(pieces)
        matrix = place[:numbers] if numbers <= largest else place.new_empty(numbers)
        matrix = matrix.view(-1, *pieces[0].shape[1:])
        _read(pieces, matrix, read_into)
        weight.fill(matrix)
    head = weights["head.lm_head"]
    if config.tie_word_embeddings and not isinstance(head, Tensor):
        head.fill(model.embed_tokens)
    return model


def _make_room(
    model: Qwen3, name: str, quantization: Quantization, device: torch.device
) -> Tensor | Int8Weight | Int4Weight:
    """Put an unfilled weight on the device in the place of one that is nowhere."""
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    like: Tensor = getattr(owner, leaf)
    room: nn.Parameter | Int8Weight | Int4Weight
    if leaf not in _QUANTIZED:
        empty = torch.empty(like.shape, dtype=like.dtype, device=device)
        room = nn.Parameter(empty, requires_grad=False)
    else:
        room = (Int8Weight if quantization == "int8" else Int4Weight)(like, device)
    replace_weight(owner, leaf, room)
    return room


def _read(
    pieces: tuple[Piece, ...], destination: Tensor, read_into: Callable[[str, Tensor], None]
) -> None:
    for piece in pieces:
        read_into(piece.hf_name, destination[piece.start : piece.start + piece.shape[0]])


def _numbers(pieces: tuple[Piece, ...]) -> int:
    return sum(torch.Size(piece.shape).numel() for piece in pieces)
