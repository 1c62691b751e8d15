"""Products with int8 weights, and what they share with other few bits; no weight is learned.

w = q * scale with q in [-127, 127]; each output has a scale, or each group of its inputs. How the
numbers lie, and how many inputs share a scale, is a form's own: the kernels' of a device. A kernel
reads each weight as it is stored, which is what few rows wait for: decoding. aten's
(ATen/native/LinearAlgebra.cpp: `_weight_int8pack_mm`) is slower for more rows than making floats of
the weights, a piece at a time, and multiplying those (docs/performance.md); so do devices without a
kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from danlu.device.memory import sent
from danlu.device.weight_forms import piece_numbers, quantized_at_once
from danlu.ops import reference
from danlu.ops.choice import Operation, example
from danlu.ops.frozen.frozen_product import frozen_product

# The most rows for which aten's kernel is faster.
INT8_KERNEL_ROWS = 4
Stored = tuple[Tensor, Tensor]
Product = Callable[[Tensor, Tensor, Tensor], Tensor]
Pieces = Callable[[Tensor, Tensor, torch.dtype], Iterator[tuple[slice, Tensor]]]


class Cut(NamedTuple):
    """Taking outputs out of a form. multiple(): of what first and last have to be a multiple."""

    multiple: Callable[[], int]
    take: Callable[[Tensor, Tensor, slice], Stored]


class FewBitsForm(NamedTuple):
    """How weights in few bits lie, and a product with them.

    empty(weight, device): what `fill` fills, for a weight of this shape. fill(out, weight [out,
    in]): quantises it. floats(*stored, dtype): yields slices of outputs and their weights [some,
    in]; there may be filler behind outputs and inputs. linear(x, *stored) -> [rows, outputs and
    filler]. many: the same for the rows of a training, where that is another product. cut: how to
    take some outputs; None where that is not done. added(x, *stored, residual [rows, outputs]): the
    product and what is added to it at once, where a kernel does that.
    """

    empty: Callable[[Tensor, torch.device], Stored]
    fill: Callable[[Stored, Tensor], None]
    floats: Pieces
    linear: Product
    many: Product | None = None
    cut: Cut | None = None
    added: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None = None


def quantized_in(form: FewBitsForm, weight: Tensor) -> Stored:
    """Quantise [out, in] in a form."""
    stored = form.empty(weight, weight.device)
    form.fill(stored, weight)
    return stored


def multiplied(form: FewBitsForm, x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    """Multiply x [rows, in] with a weight in a form -> [rows, outputs and filler]."""
    inputs = x.shape[1]
    return frozen_product(
        x,
        lambda rows: form.linear(rows, values, scales),
        lambda dy: input_gradient(form.floats, (values, scales), dy, inputs),
    )


def input_gradient(pieces: Pieces, stored: Stored, dy: Tensor, inputs: int) -> Tensor:
    """Return the gradient [rows, inputs] of what was multiplied, from the product's.

    dy: [rows, outputs], with filler or without.
    """
    total: Tensor | None = None
    for rows, weight in pieces(*stored, dy.dtype):
        some = dy[:, rows]
        weight = weight[: some.shape[1], :inputs]
        total = some @ weight if total is None else total.addmm_(some, weight)
    assert total is not None  # a matrix has a row
    return total


def product_by_pieces(pieces: Pieces, stored: Stored, x: Tensor, outputs: int) -> Tensor:
    """Multiply with floats made of weights -> [rows, outputs]. outputs: filler included."""
    y = x.new_empty(len(x), outputs)
    for rows, weight in pieces(*stored, x.dtype):
        torch.mm(x, weight[:, : x.shape[1]].t(), out=y[:, rows])
    return y


def whole_floats(
    pieces: Pieces, stored: Stored, outputs: int, inputs: int, dtype: torch.dtype
) -> Tensor:
    """Return all weights [outputs, inputs] as floats."""
    whole = torch.empty(outputs, inputs, dtype=dtype, device=stored[0].device)
    for rows, weight in pieces(*stored, dtype):
        some = whole[rows]  # there may be filler behind the outputs
        some.copy_(weight[: len(some), :inputs])
    return whole


def in_rows(linear: Product, cut: Cut | None = None) -> FewBitsForm:
    """Return the form in rows, values [out, in] and scales [out], with a product of its own."""
    return FewBitsForm(_empty_rows, int8_values(_store_rows), _row_pieces, linear, cut=cut)


def int8_values(
    store: Callable[[Stored, slice, Tensor, Tensor], None],
) -> Callable[[Stored, Tensor], None]:
    """Return a form's `fill`. store(out, place, values int8 [some, in], scales [some])."""

    def fill(out: Stored, weight: Tensor) -> None:
        for rows in pieces_of(quantized_at_once(weight.device.type), *weight.shape):
            w = weight[rows].to(torch.float32, copy=True)
            # Rounded to its dtype first: the values then make up for it.
            scales = w.abs().amax(dim=1).div_(127).to(weight.dtype)
            values = w.div_(divisor_of(scales[:, None])).round_().clamp_(-127, 127)
            store(out, rows, values.to(torch.int8), scales)

    return fill


def _store_rows(out: Stored, place: slice, values: Tensor, scales: Tensor) -> None:
    out[0][place], out[1][place] = values, scales


def _take_rows(values: Tensor, scales: Tensor, outputs: slice) -> Stored:
    return values[outputs], scales[outputs]


# For a device that is its own host: it multiplies part after part.
ROW_CUT = Cut(lambda: 1, _take_rows)


def _empty_rows(weight: Tensor, device: torch.device) -> Stored:
    # Not empty_like: of a meta tensor it makes torch import sympy, 36 MB.
    values = torch.empty(weight.shape, dtype=torch.int8, device=device)
    return values, torch.empty(len(weight), dtype=weight.dtype, device=device)


def _row_pieces(
    values: Tensor, scales: Tensor, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    for rows in pieces_of(piece_numbers(values.device.type), *values.shape):
        yield rows, values[rows].to(dtype).mul_(scales[rows, None])


def _int8_few_rows(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    if len(x) > INT8_KERNEL_ROWS:
        return int8_floats(x, values, scales)
    return torch.ops.aten._weight_int8pack_mm(x.contiguous(), values, scales)  # type: ignore[no-any-return]


def int8_floats(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    """Multiply with floats made of values, a piece at a time."""
    y = x.new_empty(len(x), len(values))
    for rows in pieces_of(piece_numbers(x.device.type), *values.shape):
        torch.mm(x, values[rows].to(x.dtype).t(), out=y[:, rows])
        y[:, rows].mul_(scales[rows])
    return y


def pieces_of(numbers: int, outputs: int, inputs: int, multiple: int = 1) -> Iterator[slice]:
    """Cut outputs into slices of about `numbers` weights, each but the last a `multiple` long."""
    size = max(1, numbers // (inputs * multiple)) * multiple
    for start in range(0, outputs, size):
        yield slice(start, min(start + size, outputs))


def divisor_of(scales: Tensor) -> Tensor:
    """Return what to divide by: weights that are all alike have scale 0."""
    return torch.where(scales == 0, 1, scales)


def form_trial(
    form: FewBitsForm, most: float, device: torch.device, dtype: torch.dtype
) -> list[Tensor]:
    """Multiply few rows, more, and those of a prompt, which may be other kernels.

    With `exact_weights`; and add a residual to few rows, as decoding does.
    """
    stored = quantized_in(form, exact_weights(128, 128, most).to(dtype))
    values, scales = (sent(part, device) for part in stored)
    x, residual = (example(72, 128, device=device, dtype=dtype, seed=n) for n in (1, 2))
    with torch.no_grad():
        found = [form.linear(x[:rows], values, scales) for rows in (3, 40, 72)]
        if form.added is None:
            return [*found, found[0] + residual[:3]]
        return [*found, form.added(x[:3], values, scales, residual[:3])]


def exact_weights(outputs: int, inputs: int, most: float) -> Tensor:
    """Return weights from -most to most that every form and dtype holds exactly."""
    weight = example(outputs, inputs, device=torch.device("cpu")).mul_(most / 2)
    weight = weight.sub_(most).round_().add_(most).clamp_(-most, most)
    weight[:, ::32], weight[:, 1::32] = most, -most  # so a group's scale is 1
    return weight


def _trial(form: FewBitsForm, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    return form_trial(form, 127, device, dtype)


INT8_LINEAR: Operation[FewBitsForm] = Operation(
    "int8_linear",
    {
        "few_rows": in_rows(_int8_few_rows, ROW_CUT),
        "floats": in_rows(int8_floats, ROW_CUT),
        "reference": in_rows(reference.int8_linear, ROW_CUT),
    },
    _trial,
)
