"""A matrix in int8, int4 or nf4, where the model has a weight."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from danlu.ops.choice import Operation
from danlu.ops.expert_products import rows_of
from danlu.ops.frozen.int4 import INT4_LINEAR
from danlu.ops.frozen.nf4 import NF4_LINEAR
from danlu.ops.frozen.quantized import INT8_LINEAR, FewBitsForm, input_gradient, multiplied

_OPERATIONS: dict[str, Operation[FewBitsForm]] = {
    "int8": INT8_LINEAR,
    "int4": INT4_LINEAR,
    "nf4": NF4_LINEAR,
}


def keeps_experts(
    quantization: Literal["int8", "int4"], device: torch.device, outputs: int
) -> bool:
    """Whether matrices of experts, with so many outputs each, are kept as one in few bits."""
    cut = _OPERATIONS[quantization].on(device).cut
    return cut is not None and outputs % cut.multiple() == 0


def usually_keeps_experts(kind: str) -> bool:
    """Whether a kind of device usually has such forms: one that is its own host."""
    return kind == "cpu"


class QuantizedWeight(nn.Module):
    """A matrix [out, in] in the form of its device, uninitialised until `fill`.

    like: a tensor of the matrix's shape and dtype, on any device. below_adapter: it multiplies the
    rows of a training.
    """

    values: Tensor
    scales: Tensor  # int4: and zeros

    def __init__(
        self,
        like: Tensor,
        quantization: Literal["int8", "int4", "nf4"],
        device: torch.device,
        *,
        below_adapter: bool = False,
    ) -> None:
        super().__init__()
        self.outputs, self.inputs = like.shape
        self.dtype = like.dtype
        form = _OPERATIONS[quantization].on(device)
        self.form = form._replace(linear=form.many) if below_adapter and form.many else form
        values, scales = form.empty(like, device)
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)

    def fill(self, weight: Tensor) -> None:
        """Quantise a matrix into the allocated buffers."""
        self.form.fill((self.values, self.scales), weight)

    def forward(self, x: Tensor) -> Tensor:  # [T, in] -> [T, out]
        y = multiplied(self.form, x, self.values, self.scales)
        # The last tile of outputs may be longer than the matrix.
        return y if y.shape[1] == self.outputs else y[:, : self.outputs]

    def gradient(self, dy: Tensor) -> Tensor:  # [T, out] -> [T, in]
        """Return the gradient of x, made of floats, a piece at a time."""
        return input_gradient(self.form.floats, (self.values, self.scales), dy, self.inputs)

    def by_expert(self, x: Tensor, ends: Tensor) -> Tensor:  # [R, in] -> [R, out of one]
        """Multiply each expert's rows with its part, where `keeps_experts`; ends [E]."""
        cut = self.form.cut
        assert cut is not None
        outputs = self.outputs // len(ends)
        y = x.new_empty(len(x), outputs)
        for expert, rows in rows_of(ends):
            place = slice(expert * outputs, (expert + 1) * outputs)
            stored = cut.take(self.values, self.scales, place)
            y[rows] = self.form.linear(x[rows], *stored)
        return y
