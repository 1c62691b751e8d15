"""Weights in int8 or int4: a module in the place of a projection's matrix, which multiplies.

Only for inference: there is no gradient. A model is built one matrix at a time, so that hardly more
memory is taken on the way than in the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from danlu.model.config import ModelConfig
from danlu.model.layout import PROJECTIONS, Piece, layout
from danlu.model.qwen3 import Qwen3, replace_weight
from danlu.ops import int4_linear, int8_linear, quantize_int4, quantize_int8
from danlu.ops.quantized import GROUP

Quantization = Literal["int8", "int4"]
# The embedding is looked up, not multiplied: it stays as it is.
_QUANTIZED = (*PROJECTIONS, "lm_head")


class Int8Weight(nn.Module):
    """A matrix [out, in] with one scale per output."""

    values: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        values, scales = quantize_int8(weight)
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)

    def forward(self, x: Tensor) -> Tensor:  # [T, in] -> [T, out]
        return int8_linear(x, self.values, self.scales)


class Int4Weight(nn.Module):
    """A matrix [out, in] with scale and zero for each group of inputs."""

    packed: Tensor
    scales_and_zeros: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.num_outputs = len(weight)
        packed, scales_and_zeros = quantize_int4(weight)
        self.register_buffer("packed", packed)
        self.register_buffer("scales_and_zeros", scales_and_zeros)

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
    # The largest first: a matrix and its quantised form are both there while little else is.
    tensors = sorted(layout(config).items(), key=lambda item: _numbers(item[1]), reverse=True)
    # Matrices of one shape follow each other and are read into the same memory: what is freed
    # between others that stay is not all used again.
    weight = torch.empty(0)
    for name, pieces in tensors:
        owner, _, leaf = name.rpartition(".")
        shape = (sum(piece.shape[0] for piece in pieces), *pieces[0].shape[1:])
        if leaf not in _QUANTIZED or weight.shape != shape:
            weight = torch.empty(0)
            weight = torch.empty(shape, device=device, dtype=dtype)
        for piece in pieces:
            read_into(piece.hf_name, weight[piece.start : piece.start + piece.shape[0]])
        if leaf in _QUANTIZED:
            replace_weight(model.get_submodule(owner), leaf, _quantized(weight, quantization))
        else:
            replace_weight(
                model.get_submodule(owner), leaf, nn.Parameter(weight, requires_grad=False)
            )
            if leaf == "embed_tokens" and config.tie_word_embeddings:
                replace_weight(model.head, "lm_head", _quantized(weight, quantization))
            weight = torch.empty(0)
    return model


def _quantized(weight: Tensor, quantization: Quantization) -> Int8Weight | Int4Weight:
    return Int8Weight(weight) if quantization == "int8" else Int4Weight(weight)


def _numbers(pieces: tuple[Piece, ...]) -> int:
    return sum(torch.Size(piece.shape).numel() for piece in pieces)
