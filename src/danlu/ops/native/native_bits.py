"""int8 and int4 weights as the C++ kernels read them (native/kernels.h): words of some inputs.

values [tiles, in / 4 or 8, TILE] int32: four int8 or eight int4 of an output in a word; scales
[tiles, groups, TILE], int4: and zeros, [tiles, groups, TILE, 2], bf16 whatever the model computes
in. Filler, behind the outputs and, in int8, behind the inputs, is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from danlu.device.weight_forms import PIECE
from danlu.ops.frozen.quantized import Cut, FewBitsForm, Stored, pieces_of, product_by_pieces
from danlu.ops.native.library import Int, KernelCall, Kind, Pointer, Size, library
from danlu.ops.native.native_linear import INT4, INT8, TILE, FewBitsProduct

# Inputs that share a scale, as in native/kernels.h.
_GROUP = 32
# Inputs in a word.
_FOUR, _EIGHT = 4, 8
# From so many rows on, a product with floats made of the weights is faster (docs/performance.md).
MANY_ROWS = 512


class _Quantize(KernelCall):
    kind = Kind.QUANTIZE
    _fields_ = (
        *((name, Pointer) for name in ("weight", "values", "scales")),
        ("outputs", Size),
        ("inputs", Size),
        ("form", Int),
        ("is_float", Int),
    )


class _Dequantize(_Quantize):
    """The same fields: weight, transposed, is what is written."""

    kind = Kind.DEQUANTIZE


def _empty(weight: Tensor, device: torch.device, in_word: int, *per_group: int) -> Stored:
    outputs, inputs = weight.shape
    tiles, words = -(-outputs // TILE), -(-inputs // in_word)
    values = torch.empty(tiles, words, TILE, dtype=torch.int32, device=device)
    return values, torch.empty(tiles, *per_group, dtype=torch.bfloat16, device=device)


def _empty_int8(weight: Tensor, device: torch.device) -> Stored:
    return _empty(weight, device, _FOUR, -(-weight.shape[1] // _GROUP), TILE)


def _empty_int4(weight: Tensor, device: torch.device) -> Stored:
    return _empty(weight, device, _EIGHT, weight.shape[1] // _GROUP, TILE, 2)


def _tiles_of(place: slice) -> slice:
    return slice(place.start // TILE, -(-place.stop // TILE))


def _fill(form: int, out: Stored, weight: Tensor) -> None:
    if weight.dtype not in (torch.bfloat16, torch.float32):
        weight = weight.float()
    weight = weight.detach().contiguous()
    values, scales = out
    call = _Quantize(
        weight=weight,
        values=values,
        scales=scales,
        outputs=weight.shape[0],
        inputs=weight.shape[1],
        form=form,
        is_float=weight.dtype == torch.float32,
    )
    library().run(call)


def _floats(
    form: int, in_word: int, values: Tensor, scales: Tensor, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    made = dtype if dtype in (torch.bfloat16, torch.float32) else torch.float32
    tiles, words, _tile = values.shape
    inputs = words * in_word
    for rows in pieces_of(PIECE, tiles * TILE, inputs, TILE):
        outputs = rows.stop - rows.start
        weight = torch.empty(inputs, outputs, dtype=made, device=values.device)
        call = _Dequantize(
            values=values[_tiles_of(rows)],
            scales=scales[_tiles_of(rows)],
            weight=weight,
            outputs=outputs,
            inputs=inputs,
            form=form,
            is_float=made == torch.float32,
        )
        library().run(call)
        yield rows, weight.to(dtype).t()


def _many(product: FewBitsProduct, x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    """Multiply the rows of a training. In answers a row's bits must not depend on their number."""
    if len(x) < MANY_ROWS:
        return product(x, values, scales)
    floats = partial(_floats, product.form, product.in_word)
    tiles, _words, tile = values.shape
    return product_by_pieces(floats, (values, scales), x, tiles * tile)


def _take_tiles(values: Tensor, scales: Tensor, outputs: slice) -> Stored:
    tiles = _tiles_of(outputs)
    return values[tiles], scales[tiles]


_CUT = Cut(lambda: TILE, _take_tiles)


def _form(empty: Callable[[Tensor, torch.device], Stored], product: FewBitsProduct) -> FewBitsForm:
    form = product.form
    floats = partial(_floats, form, product.in_word)
    many = partial(_many, product)
    return FewBitsForm(empty, partial(_fill, form), floats, product, many, _CUT)


NATIVE_INT8 = _form(_empty_int8, FewBitsProduct(INT8, _FOUR))
NATIVE_INT4 = _form(_empty_int4, FewBitsProduct(INT4, _EIGHT))
