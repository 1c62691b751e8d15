"""A matrix in int8, int4 or nf4, where the model has a weight."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from danlu.device.weight_forms import floats_bytes
from danlu.ops.choice import Operation
from danlu.ops.expert_products import expert_input_gradient, expert_linear, rows_of
from danlu.ops.frozen.expert_bits import EXPERT_BITS, ExpertBits
from danlu.ops.frozen.frozen_product import frozen_product
from danlu.ops.frozen.int4 import INT4_LINEAR
from danlu.ops.frozen.nf4 import NF4_LINEAR
from danlu.ops.frozen.quantized import (
    INT8_LINEAR,
    FewBitsForm,
    Stored,
    input_gradient,
    multiplied,
    whole_floats,
)

_OPERATIONS: dict[str, Operation[FewBitsForm]] = {
    "int8": INT8_LINEAR,
    "int4": INT4_LINEAR,
    "nf4": NF4_LINEAR,
}


class QuantizedWeight(nn.Module):
    """A matrix [out, in] in the form of its device, uninitialised until `fill`.

    like: a tensor of the matrix's shape and dtype, on any device. below_adapter: it multiplies the
    rows of a training. experts: so many have a matrix each, which are one here; 1: it is no
    expert's.
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
        experts: int = 1,
    ) -> None:
        super().__init__()
        self.outputs, self.inputs = like.shape
        self.dtype, self._quantization, self._experts = like.dtype, quantization, experts
        form = _OPERATIONS[quantization].on(device)
        self.form = form._replace(linear=form.many) if below_adapter and form.many else form
        self._at_once: ExpertBits | None = None
        if experts > 1 and not below_adapter:
            bits = EXPERT_BITS.on(device).get(quantization)
            if bits and bits.form is form and bits.takes(like.dtype, len(like) // experts):
                self._at_once = bits
        bits = self._at_once
        values, scales = bits.room(like, device, experts) if bits else form.empty(like, device)
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)

    def fill(self, weight: Tensor) -> None:
        """Quantise a matrix into the allocated buffers."""
        self.form.fill((self.values, self.scales), weight)

    def forward(self, x: Tensor) -> Tensor:  # [T, in] -> [T, out]
        y = multiplied(self.form, x, self.values, self.scales)
        # The last tile of outputs may be longer than the matrix.
        return y if y.shape[1] == self.outputs else y[:, : self.outputs]

    def begin(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the product, and what of the residual is still to be added: `ops.begin_linear`."""
        added = self.form.added
        if residual is None or added is None or torch.is_grad_enabled():
            return self(x), residual
        return added(x, self.values, self.scales, residual), None

    def gradient(self, dy: Tensor) -> Tensor:  # [T, out] -> [T, in]
        """Return the gradient of x, made of floats, a piece at a time."""
        return input_gradient(self.form.floats, (self.values, self.scales), dy, self.inputs)

    def by_expert(self, x: Tensor, ends: Tensor) -> Tensor:  # [R, in] -> [R, out of one]
        """Multiply each expert's rows with its part of the matrix; ends [E]."""
        return frozen_product(
            x,
            lambda rows: self._product_by_expert(rows, ends),
            lambda dy: self.expert_gradient(dy.contiguous(), ends),
        )

    def _product_by_expert(self, x: Tensor, ends: Tensor) -> Tensor:
        if self._at_once is not None:
            return self._at_once.linear(x, self.values, self.scales, ends)
        parts = self._parts(ends)
        if parts is None:
            return expert_linear(x, self._floats(x.dtype), ends)
        y = x.new_empty(len(x), self.outputs // len(ends))
        for rows, stored in parts:
            y[rows] = self.form.linear(x[rows], *stored)
        return y

    def expert_gradient(self, dy: Tensor, ends: Tensor) -> Tensor:  # [R, out of one] -> [R, in]
        """Return the gradient of x, of `by_expert`."""
        parts = self._parts(ends)
        if parts is None:
            return expert_input_gradient(dy, self._floats(dy.dtype), ends)
        dx = dy.new_empty(len(dy), self.inputs)
        for rows, stored in parts:
            dx[rows] = input_gradient(self.form.floats, stored, dy[rows], self.inputs)
        return dx

    @property
    def floats_bytes(self) -> int:
        """What floats take that `by_expert` makes, of the matrices of all experts; 0: of none."""
        if self._experts == 1 or self._at_once is not None or self._has_parts(self._experts):
            return 0
        numbers, size = self.outputs * self.inputs, self.dtype.itemsize
        kind = self.values.device.type
        piece = floats_bytes(self._quantization, numbers, kind=kind, number_bytes=size)
        return numbers * size + piece

    def _has_parts(self, experts: int) -> bool:
        cut = self.form.cut
        return cut is not None and self.outputs // experts % cut.multiple() == 0

    def _parts(self, ends: Tensor) -> Iterator[tuple[slice, Stored]] | None:
        """List the rows of experts that have some, and their parts; None where none can be taken.

        Then the matrices of all experts are floats at a time: for devices that multiply them by one
        call, and never wait for the host.
        """
        cut, outputs = self.form.cut, self.outputs // len(ends)
        if cut is None or not self._has_parts(len(ends)):
            return None
        return (
            (rows, cut.take(self.values, self.scales, slice(n * outputs, (n + 1) * outputs)))
            for n, rows in rows_of(ends)
        )

    def _floats(self, dtype: torch.dtype) -> Tensor:
        stored = self.values, self.scales
        return whole_floats(self.form.floats, stored, self.outputs, self.inputs, dtype)
