"""Products with experts' matrices in int8 and int4, where a device multiplies all by one call.

It reads the weights as they are stored, and of experts that have rows only; where groups end it
reads on the device. For answers: a training multiplies by floats. Where there is none, all matrices
of a layer's experts become floats for a product (`few_bits_weight.py`).
Shapes: as in `ops.expert_products`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from danlu.device.memory import sent
from danlu.device.variants import REFERENCE
from danlu.ops import reference
from danlu.ops.choice import Operation, example
from danlu.ops.frozen.int4 import INT4_LINEAR
from danlu.ops.frozen.quantized import (
    INT8_LINEAR,
    FewBitsForm,
    Stored,
    exact_weights,
    whole_floats,
)


class ExpertBits(NamedTuple):
    """A product of rows with experts' matrices in a form.

    form: how the numbers lie. linear(x [R, in], *stored, ends) -> [R, out]. takes(dtype, outputs):
    whether rows of a dtype, and so many outputs of each expert, can be multiplied. empty(weight,
    device, experts): what is filled, where that is not as of other matrices in the form.
    """

    form: FewBitsForm
    linear: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    takes: Callable[[torch.dtype, int], bool] = lambda dtype, outputs: True
    empty: Callable[[Tensor, torch.device, int], Stored] | None = None

    def room(self, weight: Tensor, device: torch.device, experts: int) -> Stored:
        """Return what the form's `fill` fills, for the matrices of so many experts in one."""
        if self.empty is None:
            return self.form.empty(weight, device)
        return self.empty(weight, device, experts)


# A variant: the products by "int8" and "int4"; without one, floats are multiplied.
Variant = Mapping[str, ExpertBits]
# Of the trial: experts, each one's inputs and outputs, and where their rows end.
_EXPERTS, _INPUTS, _OUTPUTS = 4, 128, 64
_ENDS = (0, 5, 5, 13), (20, 20, 60, 90)


def _trial(variant: Variant, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Multiply few rows, and more, which may be another kernel."""
    groups = [(each[-1], sent(torch.tensor(each), device)) for each in _ENDS]
    x = example(90, _INPUTS, device=device, dtype=dtype, seed=1)
    found = []
    for name, operation, most in (("int8", INT8_LINEAR, 127), ("int4", INT4_LINEAR, 7.5)):
        weight = exact_weights(_EXPERTS * _OUTPUTS, _INPUTS, most).to(dtype)
        bits = variant.get(name)
        if bits is None or not bits.takes(dtype, _OUTPUTS):
            form = operation.variants[REFERENCE]
            found += [_by_floats(form, x[:rows], weight, ends) for rows, ends in groups]
            continue
        stored = bits.room(weight, weight.device, _EXPERTS)
        bits.form.fill(stored, weight)
        values, scales = (sent(part, device) for part in stored)
        with torch.no_grad():
            found += [bits.linear(x[:rows], values, scales, ends) for rows, ends in groups]
    return found


def _by_floats(form: FewBitsForm, x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    stored = form.empty(weight, weight.device)
    form.fill(stored, weight)
    outputs, inputs = weight.shape
    floats = whole_floats(form.floats, stored, outputs, inputs, weight.dtype)
    return reference.expert_linear(x, sent(floats, x.device), ends)


EXPERT_BITS: Operation[Variant] = Operation("expert_bits", {REFERENCE: {}}, _trial)
