"""Products with weights in nf4, bitsandbytes' four bits; no weight is learned.

Each `NF4_GROUP` inputs of an output have a scale, their largest number: w = LEVELS[q] * scale. The
levels are means of a normal distribution's quantiles, so that weights use all of them alike, and 0
is one (Dettmers et al. 2023, QLoRA, appendix E). Two inputs share a byte, the first in its upper
half: values [out, in / 2] uint8, scales [out, in / NF4_GROUP]. bitsandbytes has its scales in fp32,
or in 8 bits with scales of their own; here they have 16.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from danlu.device.memory import sent
from danlu.device.weight_forms import NF4_GROUP, piece_numbers, quantized_at_once
from danlu.ops import reference
from danlu.ops.choice import Operation, example
from danlu.ops.frozen.quantized import (
    FewBitsForm,
    Product,
    Stored,
    divisor_of,
    pieces_of,
    product_by_pieces,
    quantized_in,
)

# Where one level is as near as the next.
_MIDDLES = tuple((low + high) / 2 for low, high in pairwise(reference.NF4_LEVELS))


@cache
def _pairs(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return [256]: the two levels of each byte beside each other, read as one whole number."""
    levels = torch.tensor(reference.NF4_LEVELS, dtype=dtype)
    pairs = torch.stack((levels.repeat_interleave(16), levels.repeat(16)), dim=1)
    whole = torch.int32 if dtype.itemsize == 2 else torch.int64
    return sent(pairs.view(whole).flatten(), device)


def _empty(weight: Tensor, device: torch.device) -> Stored:
    outputs, inputs = weight.shape
    values = torch.empty(outputs, inputs // 2, dtype=torch.uint8, device=device)
    groups = inputs // NF4_GROUP
    return values, torch.empty(outputs, groups, dtype=weight.dtype, device=device)


def _fill(out: Stored, weight: Tensor) -> None:
    values, scales = out
    for rows in pieces_of(quantized_at_once(weight.device.type), *weight.shape):
        w = weight[rows].float()
        w = w.view(len(w), -1, NF4_GROUP)
        # Rounded to its dtype first: the levels then make up for it.
        scales[rows] = w.abs().amax(dim=2)
        shares = w / divisor_of(scales[rows, :, None])
        levels = torch.zeros(shares.shape, dtype=torch.uint8, device=weight.device)
        for middle in _MIDDLES:  # several times as fast as to search each number's place
            levels.add_((shares > middle).view(torch.uint8))
        levels = levels.view(len(w), -1, 2)
        values[rows] = levels[..., 0] << 4 | levels[..., 1]


def _pieces(values: Tensor, scales: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    pairs = _pairs(dtype, values.device)
    outputs, halves = values.shape
    for rows in pieces_of(piece_numbers(values.device.type), outputs, 2 * halves):
        # On two cores three times as fast as `pairs[...]`.
        numbers = pairs.index_select(0, values[rows].flatten().int()).view(dtype)
        groups = numbers.view(rows.stop - rows.start, -1, NF4_GROUP)
        yield rows, groups.mul_(scales[rows, :, None].to(dtype)).flatten(1)


def nf4_floats(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    """Multiply with floats made of values, a piece at a time."""
    return product_by_pieces(_pieces, (values, scales), x, len(values))


def _with(linear: Product) -> FewBitsForm:
    return FewBitsForm(_empty, _fill, _pieces, linear)


def _trial(form: FewBitsForm, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Multiply with weights that are levels themselves, times powers of two."""
    places = torch.arange(48 * 128).view(48, 128) * 7 % 16
    places[:, ::NF4_GROUP] = 15  # a group's largest number is its scale
    weight = torch.tensor(reference.NF4_LEVELS)[places] * 2.0 ** (torch.arange(48)[:, None] % 3)
    values, scales = quantized_in(form, weight.to(dtype))
    x = example(3, 128, device=device, dtype=dtype, seed=1)
    with torch.no_grad():
        return [form.linear(x, sent(values, device), sent(scales, device))]


NF4_LINEAR: Operation[FewBitsForm] = Operation(
    "nf4_linear",
    {"floats": _with(nf4_floats), "reference": _with(reference.nf4_linear)},
    _trial,
)
