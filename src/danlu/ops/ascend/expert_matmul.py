"""Products of rows with experts' matrices by npu_grouped_matmul, which has no autograd of its own.

Its matrices lie [experts, in, out]; a transposed view is taken as one. The weights' gradient groups
what is summed over: group_type 2, with a transposed view of the rows' gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.ops.expert_products import ExpertPasses


def _product(x: Tensor, matrices: Tensor, ends: Tensor, group_type: int = 0) -> Tensor:
    results: list[Tensor] = torch.ops.npu.npu_grouped_matmul(
        [x], [matrices], group_list=ends, split_item=3, group_type=group_type, group_list_type=0
    )
    return results[0]


def _forward(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return _product(x, weight.view(len(ends), -1, x.shape[1]).transpose(1, 2), ends)


def _input_gradient(dy: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return _product(dy, weight.view(len(ends), dy.shape[1], -1), ends)


def _weight_gradient(dy: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    return _product(dy.t(), x, ends, group_type=2).flatten(0, 1)


EXPERTS = ExpertPasses(_forward, _input_gradient, _weight_gradient)
