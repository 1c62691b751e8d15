"""Weights in int8 or int4: a module in the place of a projection's matrix, which multiplies.

Made from the matrix on its device; knows no files. Only for inference: it has no gradient.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from danlu.ops import int4_linear, int8_linear, quantize_int4, quantize_int8

Quantization = Literal["int8", "int4"]
# What is quantised. The embedding is looked up, not multiplied: it stays as it is.
QUANTIZED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head")


class Int8Weight(nn.Module):
    """A matrix [out, in] with one scale per output."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        values, scales = quantize_int8(weight)
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)

    def forward(self, x: Tensor) -> Tensor:  # [T, in] -> [T, out]
        return int8_linear(x, self.values, self.scales)


class Int4Weight(nn.Module):
    """A matrix [out, in] with scale and zero for each group of inputs."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.num_outputs = len(weight)
        packed, scales_and_zeros = quantize_int4(weight)
        self.register_buffer("packed", packed)
        self.register_buffer("scales_and_zeros", scales_and_zeros)

    def forward(self, x: Tensor) -> Tensor:  # [T, in] -> [T, out]
        # The last block of outputs may be longer than the matrix.
        return int4_linear(x, self.packed, self.scales_and_zeros)[:, : self.num_outputs]


def quantized(weight: Tensor, quantization: Quantization) -> Int8Weight | Int4Weight:
    """Quantise a matrix; for int4 its inputs must be a multiple of `ops.quantized.GROUP`."""
    return Int8Weight(weight) if quantization == "int8" else Int4Weight(weight)
