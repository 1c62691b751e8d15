"""Products with experts' int8 and int4 matrices by npu_grouped_matmul, as they are stored.

y = x @ ((q + offset) * scale), with scales and offsets for each output of int8, and for each group
of its inputs of int4, whose matrices lie one after the other here: packed [experts, in, out / 8].
The kernel takes 16-bit rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.device.weight_forms import INT4_GROUP
from danlu.ops.ascend.few_bits import INT4, INT8, MULTIPLE
from danlu.ops.frozen.expert_bits import ExpertBits
from danlu.ops.frozen.quantized import Stored


def _product(x: Tensor, weight: Tensor, scales: Tensor, offsets: Tensor, ends: Tensor) -> Tensor:
    results: list[Tensor] = torch.ops.npu.npu_grouped_matmul(
        [x],
        [weight],
        antiquant_scale=[scales],
        antiquant_offset=[offsets],
        group_list=ends,
        split_item=3,
        group_type=0,
        group_list_type=0,
    )
    return results[0]


def _int8_experts(x: Tensor, values: Tensor, scales: Tensor, ends: Tensor) -> Tensor:
    matrices = values.view(len(ends), -1, x.shape[1]).transpose(1, 2)
    scales = scales.view(len(ends), -1)
    return _product(x, matrices, scales, torch.zeros_like(scales), ends)


def _int4_experts(x: Tensor, packed: Tensor, parameters: Tensor, ends: Tensor) -> Tensor:
    scales, offsets = parameters.unbind(1)
    return _product(x, packed, scales, offsets, ends)


def _empty(weight: Tensor, device: torch.device, experts: int) -> Stored:
    outputs, inputs = len(weight) // experts, weight.shape[1]
    packed = torch.empty(experts, inputs, outputs // 8, dtype=torch.int32, device=device)
    # All scales in one piece and all offsets, as the kernel takes them; read as others are.
    shape = (2, experts, inputs // INT4_GROUP, outputs)
    return packed, torch.zeros(shape, dtype=weight.dtype, device=device).transpose(0, 1)


FEW_BITS_EXPERTS = {
    "int8": ExpertBits(INT8, _int8_experts, lambda dtype, _outputs: dtype != torch.float32),
    "int4": ExpertBits(
        INT4,
        _int4_experts,
        lambda dtype, outputs: dtype != torch.float32 and outputs % MULTIPLE == 0,
        _empty,
    ),
}
